"""GET /drift: how far the traffic of each version that is deployed has drifted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from causeway import errors, store
from causeway.asgi import Answer, Request, json_answer
from causeway.drift.reference import Reference
from causeway.monitoring.database_thread import DatabaseThread
from causeway.monitoring.drift_report import report
from causeway.settings import Settings

SPAN_S = 3600.0
"""How far back it looks; `causeway drift --since` looks further."""

SHARED_S = 1.0
"""How long an answer is everybody's."""

RETRY_S = 5.0


class Drifts:
    """Answers with what is on record about the versions that `deployed` names."""

    def __init__(
        self,
        database_url: str,
        n_rows: int,
        seconds: float,
        deployed: Callable[[], Sequence[str]],
        *,
        timeout_ms: float = Settings.timeout_ms,
    ) -> None:
        self._database = DatabaseThread(database_url, "drifts")
        self._n_rows = n_rows
        self._seconds = seconds
        self._deployed = deployed
        self._timeout_ms = timeout_ms
        self._asking: asyncio.Task[bytes] | None = None
        self._answered = float("-inf")

    async def answer(self, request: Request) -> Answer:
        """The report on each version. Raises `NotReady`, `DatabaseUnreachable` or `DeadlineExceeded`."""
        tags = self._deployed()
        if self._asking is None or (self._asking.done() and time.monotonic() > self._answered + SHARED_S):
            self._asking = asyncio.create_task(self._ask(tags))
        try:
            async with asyncio.timeout(self._timeout_ms / 1000):
                body = await asyncio.shield(self._asking)
        except TimeoutError:
            raise errors.DeadlineExceeded(self._timeout_ms) from None
        return json_answer(200, body, request.id)

    def close(self) -> None:
        """Ends the connections."""
        self._database.close()

    async def _ask(self, tags: Sequence[str]) -> bytes:
        """What all are answered with who ask meanwhile, or within `SHARED_S` of the answer."""
        try:
            told = await self._database.run(lambda engine: [self._of(tag, engine) for tag in tags])
        except (SQLAlchemyError, errors.DatabaseUnusable) as exc:
            raise errors.DatabaseUnreachable(RETRY_S) from exc
        finally:
            self._answered = time.monotonic()
        return msgspec.json.encode({"span_s": SPAN_S, "versions": told})

    def _of(self, tag: str, engine: Engine) -> dict[str, Any]:
        try:
            reference = Reference.from_json(store.find(tag).read("reference.json"))
        except errors.CausewayError as exc:  # the version is damaged since, or has no reference
            return {"model_version": tag, "problem": exc.message}
        with engine.connect() as connection:
            since = time.time() - SPAN_S
            return report(connection, tag, reference, n_rows=self._n_rows, seconds=self._seconds, since=since).to_dict()
