"""PostgreSQL is killed and comes back under load: serving never stops, and nothing that was acknowledged is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from sqlalchemy import Engine, select

from causeway.monitoring import database
from causeway.monitoring.database import labels, predictions
from tests import tiny
from tests.conftest import HOME, PATIENCE_S, Server, serving, wait_until
from tests.monitoring.test_metrics import scraped
from tests.postgres import Postgres

CALLERS = 3
BACKLOG = "causeway_prediction_log_backlog_bytes"


@pytest.fixture
def engine(postgres: Postgres) -> Iterator[Engine]:
    connected = database.connect(postgres.create_database())
    yield connected
    connected.dispose()


@pytest.fixture
def logging(engine: Engine, tmp_path: Path) -> Iterator[Server]:
    """A served model whose prediction log is in PostgreSQL."""
    variables = {
        "CAUSEWAY_MODEL": tiny.saved_scaled(1.0).tag,
        "CAUSEWAY_STATE_FILE": str(tmp_path / "state.json"),
        "CAUSEWAY_DATABASE_URL": engine.url.render_as_string(hide_password=False),
    }
    with serving(HOME, tmp_path / "log", **variables) as server:
        yield server


class Load:
    """Callers who predict, and say what became of it until somebody takes it; ended by `over`."""

    def __init__(self, url: str) -> None:
        self.over = threading.Event()
        self.predicted: list[str] = []
        self.labelled: dict[str, list[float]] = {}
        self.refused: list[int] = []
        """Status codes of labels that were not taken."""
        self._url = url

    def call(self) -> None:
        """One caller. Raises where a prediction is refused, or labels for another reason than the outage."""
        with httpx.Client(base_url=self._url, timeout=PATIENCE_S) as client:
            while not self.over.is_set():
                reply = client.post("/predict", json={"features": [[0.5, 1], [-0.5, 0]]})
                assert reply.status_code == 200, reply.text
                name = reply.json()["request_id"]
                self.predicted.append(name)
                came = [float(len(self.predicted) % 2), 1.0]
                reply = client.post("/feedback", json={"request_id": name, "labels": came})
                if reply.status_code == 200:
                    self.labelled[name] = came
                else:
                    assert reply.status_code in (503, 504), reply.text
                    self.refused.append(reply.status_code)


def test_nothing_acknowledged_is_lost_when_postgresql_is_killed_and_comes_back(
    logging: Server, engine: Engine, postgres: Postgres
) -> None:
    load = Load(logging.url)
    with ThreadPoolExecutor(CALLERS) as callers:
        calling = [callers.submit(load.call) for _ in range(CALLERS)]
        try:
            for stop in (postgres.kill, lambda: postgres.stop("immediate"), postgres.kill):
                _grows(load.labelled, 50, calling)
                stop()
                try:
                    _grows(load.refused, 3, calling)
                    _grows(load.predicted, 10, calling)
                finally:
                    postgres.start()
            _grows(load.labelled, 50, calling)
        finally:
            load.over.set()
    assert [caller.exception() for caller in calling] == [None] * CALLERS
    engine.dispose()  # its connections were to the PostgreSQL that was killed
    wait_until(lambda: _logged(engine) >= set(load.predicted), "every prediction in the log")
    wait_until(lambda: scraped(logging)[BACKLOG] == 0, "an empty backlog")
    with engine.connect() as connection:
        kept = {row.request_id: row.labels for row in connection.execute(select(labels))}
        ids = connection.execute(select(predictions.c.request_id)).scalars().all()
    assert len(ids) == len(set(ids))  # what was written before the crash is not written again
    assert {name: kept.get(name) for name in load.labelled} == {
        name: f"[{first},{second}]" for name, (first, second) in load.labelled.items()
    }


def _grows(noted: Sized, by: int, calling: list[Future[None]]) -> None:
    """Returns once that much more has been noted, or a caller failed."""
    enough = len(noted) + by
    wait_until(lambda: len(noted) >= enough or any(caller.done() for caller in calling), "more calls")


def _logged(engine: Engine) -> set[str]:
    with engine.connect() as connection:
        return set(connection.execute(select(predictions.c.request_id)).scalars())
