"""A real PostgreSQL for the tests, which can be stopped, killed and started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import psycopg
import pytest

from causeway.monitoring import database
from load_tests.machine import free_port

USER = "nobody"
"""Who runs it where root runs the tests: PostgreSQL refuses to be run by root."""

CONFIGURATION = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
fsync = on
"""


class Postgres:
    """A PostgreSQL server of its own in `folder`, without passwords; not started yet."""

    def __init__(self, folder: Path) -> None:
        self._data = folder / "data"
        self._log = folder / "log"
        self._port = free_port()
        self._n_databases = 0
        if os.geteuid() == 0:
            shutil.chown(folder, USER)
        self._run("initdb", "--auth=trust", "--username=causeway", "--no-sync")
        with (self._data / "postgresql.conf").open("a") as configuration:
            configuration.write(CONFIGURATION.format(port=self._port))

    def start(self) -> None:
        """Returns once it answers."""
        self._run("pg_ctl", "start", "--wait", f"--log={self._log}")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Returns once it has ended; after `immediate` it will have to recover by its write-ahead log."""
        self._run("pg_ctl", "stop", "--wait", f"--mode={mode}")

    def kill(self) -> None:
        """kill -9 of the postmaster and all its processes; returns once they are gone."""
        lock = self._data / "postmaster.pid"
        postmaster = int(lock.read_text().split()[0])
        pids = [postmaster, *map(int, Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split())]
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while any(map(_is_running, pids)):
            time.sleep(0.01)
        lock.unlink()  # in a container without an init the killed stay as zombies, which count as running there

    def create_database(self) -> str:
        """The URL of a new, empty database."""
        self._n_databases += 1
        name = f"test_{self._n_databases}"
        self._execute(f"CREATE DATABASE {name}")
        return f"postgresql+psycopg://causeway@127.0.0.1:{self._port}/{name}"

    def drop_database(self, url: str) -> None:
        """Removes what `create_database` made: after a crash, PostgreSQL goes through the files of all databases."""
        self._execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def _execute(self, statement: str) -> None:
        url = f"postgresql://causeway@127.0.0.1:{self._port}/postgres"
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def _run(self, *command: str) -> None:
        user: dict[str, Any] = {"user": USER, "group": "nogroup", "extra_groups": ()} if os.geteuid() == 0 else {}
        # Without pipes: the server would inherit them, and reading them would never end.
        said = self._data.parent / "said"
        with said.open("w") as output:
            ran = subprocess.run(
                [*command, f"--pgdata={self._data}"], stdout=output, stderr=output, cwd="/", check=False, **user
            )
        if ran.returncode:
            pytest.fail(f"{' '.join(command)}: {said.read_text()}")


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A running PostgreSQL; whoever stops it starts it again."""
    if shutil.which("initdb") is None or shutil.which("pg_ctl") is None:
        pytest.skip("PostgreSQL's initdb and pg_ctl are not on the PATH")
    # Not in pytest's own folder, into which another user cannot go.
    with tempfile.TemporaryDirectory(prefix="causeway-postgres-") as folder:
        server = Postgres(Path(folder))
        server.start()
        yield server
        server.stop("immediate")


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a new database, of either kind."""
    if request.param == "sqlite":
        yield database.sqlite_url(tmp_path / "log.db")
    else:
        postgres = request.getfixturevalue("postgres")
        url = postgres.create_database()
        yield url
        postgres.drop_database(url)
