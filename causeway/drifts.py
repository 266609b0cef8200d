"""GET /drift: how far the traffic of each version that is deployed has drifted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import msgspec
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from causeway import errors, store
from causeway.asgi import Answer, Request, json_answer
from causeway.drift.reference import Reference
from causeway.monitoring.database import connect
from causeway.monitoring.drift_report import report

SPAN_S = 3600.0
"""How far back it looks; `causeway drift --since` looks further."""

RETRY_S = 5.0


class Drifts:
    """Answers with what is on record about the versions that `deployed` names."""

    def __init__(self, database_url: str, n_rows: int, deployed: Callable[[], Sequence[str]]) -> None:
        self._url = database_url
        self._n_rows = n_rows
        self._deployed = deployed

    async def answer(self, request: Request) -> Answer:
        """The report on each version. Raises `NotReady` or `DatabaseUnreachable`."""
        tags = self._deployed()
        told = await asyncio.to_thread(self._told, tags)
        return json_answer(200, msgspec.json.encode({"span_s": SPAN_S, "versions": told}), request.id)

    @cached_property
    def _engine(self) -> Engine:
        return connect(self._url)

    def _told(self, tags: Sequence[str]) -> list[dict[str, Any]]:
        try:
            return [self._of(tag) for tag in tags]
        except (SQLAlchemyError, errors.DatabaseUnusable) as exc:
            raise errors.DatabaseUnreachable(RETRY_S) from exc

    def _of(self, tag: str) -> dict[str, Any]:
        try:
            reference = Reference.from_json(store.find(tag).read("reference.json"))
        except errors.CausewayError as exc:  # the version is damaged since, or has no reference
            return {"model_version": tag, "problem": exc.message}
        with self._engine.connect() as connection:
            opened_after = time.time() - SPAN_S
            return report(connection, tag, reference, n_rows=self._n_rows, opened_after=opened_after).to_dict()
