"""The database of the prediction log for those on an event loop: work on it, one piece after another, in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

from sqlalchemy import Engine

from causeway.monitoring import database

END_S = 1.0
"""How long `close` waits for what is under way."""

T = TypeVar("T")


class DatabaseThread:
    """A thread of its own with the database. Neither begins before there is work.

    The process ends without waiting for it, as it would for threads of a ThreadPoolExecutor: a database may hang.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        self._engine: Engine | None = None
        self._work: SimpleQueue[tuple[Callable[[Engine], Any], Future[Any]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[[Engine], T]) -> T:
        """What `work` returns or raises. Raises `DatabaseUnusable` where the database cannot be reached."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._carry_out, name=self._name, daemon=True)
            self._thread.start()
        result: Future[T] = Future()
        self._work.put((work, result))
        return await asyncio.wrap_future(result)

    def close(self) -> None:
        """Ends the connections after what is under way; what takes longer than `END_S` ends with the process."""
        self._work.put(None)
        if self._thread is not None:
            self._thread.join(END_S)

    def _carry_out(self) -> None:
        for work, result in iter(self._work.get, None):
            if result.set_running_or_notify_cancel():
                try:
                    result.set_result(work(self._connected()))
                except BaseException as exc:
                    result.set_exception(exc)
            del work, result  # they hold what was written
        if self._engine is not None:
            self._engine.dispose()

    def _connected(self) -> Engine:
        if self._engine is None:
            self._engine = database.connect(self._url)
        return self._engine
