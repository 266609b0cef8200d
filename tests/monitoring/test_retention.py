"""What is too old or too much goes, the oldest first, and nothing else."""

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from sqlalchemy import Engine, Table, insert, select, text

from causeway.monitoring import retention
from causeway.monitoring.database import connect, drift_windows, labels, predictions, spool_positions
from causeway.monitoring.retention import DAY_S, prune, size

NOW = 1_800_000_000.0
PREDICTION: dict[str, Any] = {
    "model_version": "tiny:a",
    "variant": "champion",
    "n_rows": 1,
    "features": "[[0.5]]",
    "predictions": "[[0.5]]",
    "decode_ms": 0.1,
    "queue_ms": 0.1,
    "compute_ms": 0.1,
    "latency_ms": 0.3,
}


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    connected = connect(database_url)
    yield connected
    connected.dispose()


def answered(engine: Engine, *days_ago: float, **values: Any) -> None:
    """Puts predictions into the log, whose ids are how many days ago they were made."""
    rows = [{**PREDICTION, "request_id": f"{ago:g}", "time": NOW - ago * DAY_S, **values} for ago in days_ago]
    with engine.begin() as connection:
        connection.execute(insert(predictions), rows)


def left(engine: Engine, table: Table, column: str = "request_id") -> set[str]:
    with engine.connect() as connection:
        return set(connection.scalars(select(table.c[column])))


def test_predictions_go_by_age(engine: Engine) -> None:
    answered(engine, *range(40))
    assert prune(engine, keep_days=30, keep_bytes=2**40, now=NOW) == 9
    assert left(engine, predictions) == {str(ago) for ago in range(31)}


def test_more_than_one_transaction_deletes_goes_too(engine: Engine) -> None:
    answered(engine, *(31 + n / 1000 for n in range(3 * retention.CHUNK)), 1)
    assert prune(engine, keep_days=30, keep_bytes=2**40, now=NOW) == 3 * retention.CHUNK
    assert left(engine, predictions) == {"1"}


def test_labels_stay_as_long_as_their_prediction(engine: Engine) -> None:
    answered(engine, 40, 29)
    with engine.begin() as connection:
        for request_id, ago in (("40", 39), ("29", 28), ("unknown", 5), ("unknown, long ago", 35)):
            connection.execute(insert(labels).values(request_id=request_id, labels="[1]", time=NOW - ago * DAY_S))
    prune(engine, keep_days=30, keep_bytes=2**40, now=NOW)
    assert left(engine, labels) == {"29", "unknown"}


def test_drift_windows_and_positions_go_by_age(engine: Engine) -> None:
    with engine.begin() as connection:
        for ago in (40, 29):
            window = {"model_version": "tiny:a", "source": f"{ago}", "opened": 0, "n_rows": 0, "counts": ""}
            connection.execute(insert(drift_windows).values(closed=NOW - ago * DAY_S, **window))
            name = f"{int(NOW - ago * DAY_S):012d}-1-abc"
            connection.execute(insert(spool_positions).values(segment=name, position=1))
    prune(engine, keep_days=30, keep_bytes=2**40, now=NOW)
    assert left(engine, drift_windows, "source") == {"29"}
    assert {name.split("-")[0] for name in left(engine, spool_positions, "segment")} == {
        f"{int(NOW - 29 * DAY_S):012d}"
    }


def test_predictions_go_by_size_the_oldest_first_and_only_as_many_as_they_must(engine: Engine) -> None:
    keep_bytes = 2**20
    answered(engine, *(n / 1000 for n in range(4000)), features="[" + "[0.123456]," * 50 + "[0]]")
    for _ in range(3):
        if engine.dialect.name == "postgresql":
            with engine.connect() as connection:
                connection.execute(text("ANALYZE predictions"))
                connection.commit()
        prune(engine, keep_days=30, keep_bytes=keep_bytes, now=NOW)
    stayed = sorted(map(float, left(engine, predictions)))
    assert stayed == [n / 1000 for n in range(len(stayed))]
    with engine.connect() as connection:
        assert 0.7 * keep_bytes < size(connection) <= keep_bytes


def test_sqlite_gives_its_pages_back(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("PostgreSQL keeps them for the next rows")
    answered(engine, *(31 + n / 1000 for n in range(2000)))
    with engine.connect() as connection:
        before = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
    prune(engine, keep_days=30, keep_bytes=2**40, now=NOW)
    with engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA page_count").scalar_one() < before / 4


def labelled(engine: Engine, days_ago: Iterable[float], name: str) -> None:
    rows = [{"request_id": f"{name}{ago:g}", "labels": "[1.0]" * 100, "time": NOW - ago * DAY_S} for ago in days_ago]
    with engine.begin() as connection:
        connection.execute(insert(labels), rows)


def test_labels_without_a_prediction_go_by_size_the_oldest_first_and_before_any_prediction(engine: Engine) -> None:
    keep_bytes = 2**20
    answered(engine, 4.5, 5)
    labelled(engine, [4.5, 5], "")
    labelled(engine, (n / 1000 for n in range(4000)), "stray ")
    for _ in range(3):
        if engine.dialect.name == "postgresql":
            with engine.connect() as connection:
                connection.execute(text("ANALYZE labels, predictions"))
                connection.commit()
        assert prune(engine, keep_days=30, keep_bytes=keep_bytes, now=NOW) == 0
    stayed = left(engine, labels)
    stray = sorted(float(name.removeprefix("stray ")) for name in stayed if name.startswith("stray "))
    assert stayed >= {"4.5", "5"}
    assert stray == [n / 1000 for n in range(len(stray))]
    with engine.connect() as connection:
        assert 0.7 * keep_bytes < size(connection) <= keep_bytes
