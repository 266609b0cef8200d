"""The windows on record, folded, compared, and dated."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, insert

from causeway.contract import Array
from causeway.drift.calibration import Samples, calibrate
from causeway.monitoring.database import connect, drift_windows, sqlite_url
from causeway.monitoring.drift_report import Alarm, DriftReport, iso, report

RNG = np.random.default_rng(0)
TAG = "tiny:a"


def rows(n: int, shift: float = 0.0) -> Array:
    """Two features, of which the first may be shifted."""
    return (RNG.normal(size=(n, 2)) + np.array([shift, 0.0])).astype(np.float32)


def scores(X: Array) -> Array:
    return 1 / (1 + np.exp(-X[:, 1]))


HELD_OUT, TRAINING = rows(20_000), rows(20_000)
REFERENCE = calibrate(("a", "b", "p"), Samples(TRAINING, HELD_OUT, scores(HELD_OUT)), seed=0)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    made = connect(sqlite_url(tmp_path / "log.sqlite"))
    yield made
    made.dispose()


def keep(engine: Engine, opened: float, closed: float, X: Array, tag: str = TAG, source: str = "one") -> None:
    window = REFERENCE.count(X, scores(X))
    with engine.begin() as connection:
        connection.execute(
            insert(drift_windows).values(
                model_version=tag,
                source=source,
                opened=opened,
                closed=closed,
                n_rows=window.rows,
                counts=window.to_json().decode(),
            )
        )


def asked(engine: Engine, since: float = 0, until: float = math.inf) -> DriftReport:
    with engine.connect() as connection:
        return report(connection, TAG, REFERENCE, n_rows=1_000, seconds=10, since=since, until=until)


def test_without_windows_there_is_nothing_to_compare(engine: Engine) -> None:
    keep(engine, 0, 10, rows(1_000), tag="tiny:another")
    told = asked(engine)
    assert (told.windows, told.latest, told.whole, told.skew, told.drifted_since) == ([], None, None, None, {})
    assert told.to_dict()["latest"] is None


def test_only_complete_windows_are_compared_in_the_order_in_which_they_closed(engine: Engine) -> None:
    for i in range(5):
        keep(engine, 10 * i, 10 * i + 10, rows(1_000 if i != 2 else 999), source=f"server-{i % 2}")
    keep(engine, 50, 59, rows(1_000))
    told = asked(engine)
    assert [(each.opened, each.closed) for each in told.windows] == [(0, 10), (10, 20), (30, 40), (40, 50)]
    assert told.whole is not None
    assert told.whole.rows == 5_999
    assert [each.closed for each in asked(engine, since=20, until=40).windows] == [20, 40]


def test_a_column_has_drifted_since_the_first_window_of_an_unbroken_run(engine: Engine) -> None:
    for i, shift in enumerate([0.0, 1.0, 0.0, 1.0, 1.0, 1.0]):
        keep(engine, 60 * i, 60 * i + 60, rows(1_000, shift))
    told = asked(engine)
    assert told.alarms == [Alarm("a", 60, 120, 1, is_over=True), Alarm("a", 180, 360, 3, is_over=False)]
    assert told.drifted_since == {"a": 180.0}
    assert told.latest is not None
    assert told.latest.drifted == ("a",)
    assert told.to_dict()["drifted_since"] == {"a": "1970-01-01T00:03:00+00:00"}
    assert told.skew is not None
    assert [column.name for column in told.skew.columns] == ["a", "b"]


def test_times_are_told_in_utc() -> None:
    assert iso(1_700_000_000.4) == "2023-11-14T22:13:20+00:00"
