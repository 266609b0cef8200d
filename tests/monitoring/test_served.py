"""The prediction log of a service that is asked to end while it answers."""

from __future__ import annotations

import threading
from pathlib import Path

import httpx
import pytest
from sqlalchemy import select

from causeway.monitoring.database import connect, predictions, sqlite_url
from tests.conftest import serving, wait_until

ROW = [120.5, 0, 1, 2, 95.2, 14, 61.7, 58, 60.1, 1, 0, 6, 0, 27, 0.04]


@pytest.mark.parametrize("n_requests", [3, 300])
def test_what_was_answered_before_an_orderly_end_is_in_the_log(home: Path, tmp_path: Path, n_requests: int) -> None:
    answered: list[str] = []

    def ask(url: str) -> None:
        with httpx.Client(base_url=url) as client:
            while True:
                try:
                    answer = client.post("/predict", json={"features": [ROW]})
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    answered.append(answer.json()["request_id"])

    with serving(home, tmp_path / "log", CAUSEWAY_STATE_FILE=str(tmp_path / "state.json")) as server:
        caller = threading.Thread(target=ask, args=(server.url,))
        caller.start()
        wait_until(lambda: len(answered) >= n_requests, "answers", server)
        server.stop()
        caller.join()
    engine = connect(sqlite_url(tmp_path / "predictions.sqlite"))
    with engine.connect() as connection:
        logged = list(connection.scalars(select(predictions.c.request_id)))
    engine.dispose()
    assert sorted(logged) == sorted(answered)
