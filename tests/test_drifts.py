"""Drift of real traffic, from the requests to whoever is told: /metrics, /drift, `causeway drift`, and the log."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from sqlalchemy import Engine

from causeway import errors
from causeway.asgi import Answer, Request
from causeway.contract import Array
from causeway.drifts import Drifts
from models.gradient_boosting import default_data
from tests.conftest import PATIENCE_S, ROOT, Server, environment, serving, wait_until

WINDOW = 2_000
FEATURE = "TX_AMOUNT"


@pytest.fixture(scope="module")
def rows() -> Array:
    """Rows as the reference has them: of its last week, in no order."""
    data = default_data(0)
    assert data.time is not None
    last_week = data.X[data.time >= data.time.max() - np.timedelta64(7, "D")]
    return np.random.default_rng(0).permutation(last_week)


@pytest.fixture(scope="module")
def watched(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service of its own, with a prediction log of its own."""
    folder = tmp_path_factory.mktemp("watched")
    variables = {
        "CAUSEWAY_STATE_FILE": str(folder / "state.json"),
        "CAUSEWAY_DRIFT_ROWS": str(WINDOW),
        "CAUSEWAY_DRIFT_S": "0",
    }
    with serving(home, folder / "log", **variables) as server:
        yield server


def ask(server: Server, X: Array) -> None:
    answer = httpx.post(f"{server.url}/predict", json={"features": X.tolist()})
    assert answer.status_code == 200, answer.text


def drift(server: Server) -> dict[str, Any]:
    answer = httpx.get(f"{server.url}/drift")
    assert answer.status_code == 200, answer.text
    (told,) = answer.json()["versions"]
    return dict(told)


def alarm(server: Server, column: str) -> float | None:
    """The gauge, None where there is none."""
    found = [
        line.rpartition(" ")[2]
        for line in httpx.get(f"{server.url}/metrics").text.splitlines()
        if line.startswith("causeway_drift_alarm{") and f'column="{column}"' in line
    ]
    return float(found[0]) if found else None


def test_a_shift_in_one_feature_is_told_everywhere_and_so_is_its_end(watched: Server, rows: Array, home: Path) -> None:
    calm, later = rows[:WINDOW], rows[-WINDOW:]
    shifted = calm.copy()
    shifted[:, 0] += calm[:, 0].std()

    ask(watched, calm)
    wait_until(lambda: alarm(watched, FEATURE) == 0, "the first window", watched)
    assert drift(watched)["latest"]["drifted"] == []

    ask(watched, shifted)
    wait_until(lambda: alarm(watched, FEATURE) == 1, "the alarm", watched)
    wait_until(lambda: FEATURE in drift(watched)["drifted_since"], "the drift", watched)  # an answer is kept a second
    told = drift(watched)
    (column,) = [column for column in told["latest"]["columns"] if column["name"] == FEATURE]
    assert column["mean"]["current"] == pytest.approx(float(shifted[:, 0].mean()), rel=1e-6)
    assert any(each["is_exceeded"] for each in column["statistics"].values())
    shown = [line.split() for line in causeway_drift(watched, home).splitlines()]
    assert any(line[:1] == [FEATURE] and line[-2:] == ["goes", "on"] for line in shown)
    assert any(line[:2] == [FEATURE, "ALARM:"] for line in shown)

    skew = causeway_drift(watched, home, "--skew")
    assert f"{2 * WINDOW} rows beside those that it learnt from" in skew
    assert "ALARM" not in skew

    events = [json.loads(line) for line in watched.log.read_text().splitlines() if line.startswith("{")]
    (begun,) = [event for event in events if event["event"] == "drift_alarm"]
    assert FEATURE in begun["columns"]
    assert begun["value"] > begun["threshold"]

    ask(watched, later)
    wait_until(lambda: alarm(watched, FEATURE) == 0, "the end of the alarm", watched)
    wait_until(lambda: FEATURE not in drift(watched)["drifted_since"], "the end of the drift", watched)
    told = drift(watched)
    assert [each["is_over"] for each in told["alarms"] if each["column"] == FEATURE] == [True]


def test_refused_values_count_as_missing_and_out_of_range(watched: Server, rows: Array) -> None:
    ask(watched, rows[:10])
    url = f"{watched.url}/predict"
    row = rows[0].tolist()
    for value in (None, "1", -1.0, 1e9):
        assert httpx.post(url, json={"features": [[value, *row[1:]]]}).status_code == 400

    def counted() -> bool:
        lines = httpx.get(f"{watched.url}/metrics").text.splitlines()
        seen = {line for line in lines if line.startswith("causeway_refused_values_total{")}
        return {
            f'causeway_refused_values_total{{column="{FEATURE}",reason="missing"}} 1.0',
            f'causeway_refused_values_total{{column="{FEATURE}",reason="not_a_number"}} 1.0',
            f'causeway_refused_values_total{{column="{FEATURE}",reason="out_of_range"}} 2.0',
        } <= seen

    wait_until(counted, "the refused values", watched)


class Asked:
    """What GET /drift asks the database, which takes as long as it likes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self.is_released = threading.Event()
        monkeypatch.setattr(Drifts, "_of", self._of)

    def _of(self, tag: str, engine: Engine) -> dict[str, Any]:
        self.times += 1
        self.is_released.wait()
        return {"model_version": tag}

    def by(self, n_callers: int, timeout_ms: float) -> list[Answer | BaseException]:
        """What so many callers at once get; before the last of them is answered, the database is."""

        async def run() -> list[Answer | BaseException]:
            drifts = Drifts("sqlite://", 1000, 300, lambda: ["tiny:a"], timeout_ms=timeout_ms)
            callers = [drifts.answer(Request({"headers": []}, None)) for _ in range(n_callers)]  # type: ignore[arg-type]
            answers = await asyncio.gather(*callers, return_exceptions=True)
            self.is_released.set()
            answers += await asyncio.gather(drifts.answer(Request({"headers": []}, None)))  # type: ignore[arg-type]
            drifts.close()
            return answers

        return asyncio.run(run())


def test_callers_share_a_query_and_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    asked.is_released.set()
    answers = asked.by(30, PATIENCE_S * 1000)
    assert {answer.body for answer in answers} == {b'{"span_s":3600.0,"versions":[{"model_version":"tiny:a"}]}'}  # type: ignore[union-attr]
    assert asked.times == 1


def test_a_database_that_hangs_costs_its_callers_no_more_than_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(monkeypatch)
    *late, last = asked.by(30, 500)
    assert {type(answer) for answer in late} == {errors.DeadlineExceeded}
    assert isinstance(last, Answer)
    assert asked.times == 1


def causeway_drift(server: Server, home: Path, *options: str) -> str:
    """What the command prints about the service's windows."""
    variables = {
        "CAUSEWAY_STATE_FILE": str(server.log.parent / "state.json"),
        "CAUSEWAY_DRIFT_ROWS": str(WINDOW),
        "CAUSEWAY_DRIFT_S": "0",
    }
    result = subprocess.run(
        [sys.executable, "-m", "causeway", "drift", "--since", "1h", *options],
        cwd=ROOT,
        env=environment(home, **variables),
        capture_output=True,
        text=True,
        check=True,
    )
    return result.stdout
