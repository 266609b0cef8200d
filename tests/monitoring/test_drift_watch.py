"""Windows that fill up with what is written, alarms that begin and end."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select

from causeway.drift.window import Window
from causeway.monitoring.batch import Prediction, Seconds
from causeway.monitoring.database import connect, drift_windows, sqlite_url
from causeway.monitoring.drift_watch import DriftWatch
from causeway.monitoring.model_metrics import ModelMetrics
from tests.monitoring.test_drift_report import REFERENCE, TAG, rows, scores

NOW = time.time()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = connect(sqlite_url(tmp_path / "log.sqlite"))
    yield made
    made.dispose()


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def watch(registry: CollectorRegistry) -> DriftWatch:
    return DriftWatch({TAG: REFERENCE}.get, ModelMetrics(registry), n_rows=1_000, seconds=10)


def answered(n: int, at: float, shift: float = 0.0, tag: str = TAG, *, lasts: float = 10.0) -> list[Prediction]:
    """Evenly over so many seconds."""
    X = rows(n, shift)
    p = scores(X)[:, None]
    seconds = Seconds(0, 0, 0, 0, 0)
    return [
        Prediction(str(i), time, "champion", tag, X[i : i + 1], p[i : i + 1], seconds, None, None)
        for i, time in enumerate(np.linspace(at, at + lasts, n).tolist())
    ]


def write(
    watch: DriftWatch,
    engine: Engine,
    predictions: list[Prediction],
    refused: dict[tuple[str, str, str], int],
    at: float,
) -> None:
    """As the keeper does it."""
    windows = watch.counted("here", predictions, refused, at)
    with engine.begin() as connection:
        windows = watch.store(connection, windows)
    watch.accept(windows)


def recorded(engine: Engine) -> list[Window]:
    with engine.connect() as connection:
        return [Window.from_json(counts) for counts in connection.scalars(select(drift_windows.c.counts))]


def alarm(registry: CollectorRegistry, column: str) -> float | None:
    return registry.get_sample_value("causeway_drift_alarm", {"model_version": TAG, "column": column})


def test_an_open_window_is_on_record_and_grows(watch: DriftWatch, engine: Engine) -> None:
    for second in range(5):
        write(watch, engine, answered(300, NOW + second, lasts=1), {}, NOW + second)
        assert [window.rows for window in recorded(engine)] == [300 * (second + 1)]


def test_a_window_is_closed_once_it_is_large_and_old_enough(
    watch: DriftWatch, engine: Engine, registry: CollectorRegistry
) -> None:
    write(watch, engine, answered(2_000, NOW, lasts=9), {}, NOW)
    assert alarm(registry, "a") is None
    write(watch, engine, answered(500, NOW + 9, lasts=1), {}, NOW + 10)
    assert alarm(registry, "a") == 0
    write(watch, engine, answered(100, NOW + 11, lasts=1), {}, NOW + 11)
    assert [window.rows for window in recorded(engine)] == [2_500, 100]


def test_a_window_of_little_traffic_stays_open_until_it_has_enough_rows(
    watch: DriftWatch, engine: Engine, registry: CollectorRegistry
) -> None:
    for hour in range(4):
        assert alarm(registry, "a") is None
        write(watch, engine, answered(250, NOW + 3600 * hour, 3.0), {}, NOW + 3600 * hour)
    assert [window.rows for window in recorded(engine)] == [1_000]
    assert alarm(registry, "a") == 1


def test_an_alarm_is_told_when_it_begins_and_when_it_ends(
    watch: DriftWatch, engine: Engine, registry: CollectorRegistry, capsys: pytest.CaptureFixture[str]
) -> None:
    said = []
    for place, shift in enumerate((0.0, 2.0, 2.0, 0.0, 0.0)):
        write(watch, engine, answered(2_000, NOW + 100 * place, shift), {}, NOW + 100 * place + 10)
        said.append(capsys.readouterr().out)
    assert ["drift_alarm " in each for each in said] == [False, True, False, False, False]
    assert ["drift_alarm_over" in each for each in said] == [False, False, False, True, False]
    assert (alarm(registry, "a"), alarm(registry, "b")) == (0, 0)


def test_values_that_are_refused_alarm(watch: DriftWatch, engine: Engine, registry: CollectorRegistry) -> None:
    refused = {(TAG, "b", "not_a_number"): 80, (TAG, "b", "missing"): 20, (TAG, "unknown", "missing"): 5}
    write(watch, engine, answered(2_000, NOW), refused, NOW + 10)
    assert recorded(engine)[0].missing.tolist() == [0, 100, 0]
    assert (alarm(registry, "a"), alarm(registry, "b")) == (0, 1)


def test_a_version_without_a_reference_is_left_alone(watch: DriftWatch, engine: Engine) -> None:
    write(watch, engine, answered(10, NOW, tag="tiny:b"), {("tiny:b", "a", "missing"): 1}, NOW)
    assert recorded(engine) == []


def test_refused_values_alone_are_a_window(watch: DriftWatch, engine: Engine) -> None:
    write(watch, engine, [], {(TAG, "a", "out_of_range"): 3}, NOW)
    (window,) = recorded(engine)
    assert (window.rows, window.out_of_range.tolist()) == (0, [3, 0, 0])


def test_what_is_not_committed_is_not_counted(watch: DriftWatch, engine: Engine) -> None:
    watch.counted("here", answered(10, NOW), {}, NOW)
    write(watch, engine, answered(10, NOW), {}, NOW)
    assert [window.rows for window in recorded(engine)] == [10]
