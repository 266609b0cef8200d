"""Work on the database beside an event loop: in turn, in one thread, which holds nobody up."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Engine

from causeway import errors
from causeway.monitoring.database import sqlite_url
from causeway.monitoring.database_thread import DatabaseThread
from tests.conftest import HOME, PATIENCE_S, ROOT, environment


def thread_of(engine: Engine) -> threading.Thread:
    return threading.current_thread()


def fail(engine: Engine) -> None:
    raise ZeroDivisionError


def test_all_work_is_done_by_one_thread_which_goes_on_after_a_failure(tmp_path: Path) -> None:
    async def run() -> None:
        database = DatabaseThread(sqlite_url(tmp_path / "log.db"), "test")
        first = await database.run(thread_of)
        with pytest.raises(ZeroDivisionError):
            await database.run(fail)
        assert await database.run(thread_of) is first is not threading.current_thread()
        database.close()
        assert not first.is_alive()

    asyncio.run(run())


def test_a_database_that_cannot_be_opened_is_told_and_tried_again(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("in the way")

    async def run() -> None:
        database = DatabaseThread(sqlite_url(tmp_path / "folder" / "log.db"), "test")
        with pytest.raises(errors.DatabaseUnusable):
            await database.run(thread_of)
        (tmp_path / "folder").unlink()
        await database.run(thread_of)
        database.close()

    asyncio.run(run())


HANGS = """
import asyncio, threading
from causeway.monitoring.database_thread import DatabaseThread

async def main():
    asyncio.create_task(DatabaseThread("sqlite://", "test").run(lambda engine: threading.Event().wait()))
    await asyncio.sleep(0.1)

asyncio.run(main())
"""


def test_a_process_ends_while_its_database_hangs() -> None:
    subprocess.run([sys.executable, "-c", HANGS], cwd=ROOT, env=environment(HOME), timeout=PATIENCE_S, check=True)
