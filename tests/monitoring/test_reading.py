"""Every row that was scored comes back, with its label, whatever the database and however many there are."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, insert

from causeway.contract import Contract, Feature, Output
from causeway.monitoring import database, reading
from causeway.monitoring.database import labels, predictions
from causeway.monitoring.reading import AFTER, BEFORE, Reading, Selection
from tests import tiny
from tests.monitoring.test_database import PREDICTION

ALL = Selection(since=0, until=1e10)
OTHER = Contract((Feature("b"), Feature("c")), Output("q", width=2))
CONTRACTS = {"tiny:one": tiny.CONTRACT, "tiny:two": OTHER}


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    connected = database.connect(database_url)
    yield connected
    connected.dispose()


def log(engine: Engine, request_id: str, n_rows: int = 1, came: Sequence[float] | None = None, **changed: Any) -> None:
    """Writes a request of rows [0, 1], [1, 1], ... with scores 0, 0.5, ... and its labels."""
    request = {
        **PREDICTION,
        "request_id": request_id,
        "n_rows": n_rows,
        "features": json.dumps([[float(i), 1.0] for i in range(n_rows)]),
        "predictions": json.dumps([[i / 2] for i in range(n_rows)]),
    }
    with engine.begin() as connection:
        connection.execute(insert(predictions), {**request, **changed})
        if came is not None:
            entry = {"request_id": request_id, "labels": json.dumps(came), "time": 0.0}
            connection.execute(database.upsert(connection, labels), entry)


def read(engine: Engine, selection: Selection = ALL) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        parts = list(Reading(connection, selection, CONTRACTS.get))
    return [dict(zip(part, values, strict=True)) for part in parts for values in zip(*part.values(), strict=True)]


def seen(engine: Engine, **selection: Any) -> list[tuple[str, int]]:
    """Id and number of each row."""
    return [
        (row["request_id"], row["row"]) for row in read(engine, Selection(**{"since": 0, "until": 1e10} | selection))
    ]


def test_a_row_has_its_features_by_name_and_its_score_and_its_label(engine: Engine) -> None:
    log(engine, "a", 2, [1.0, 0.0], routing_key="ann", trace_id="f" * 32)
    first, second = read(engine)
    assert list(first) == [*BEFORE, "a", "b", "p", *AFTER]
    assert {name: first[name] for name in first if not name.endswith("_ms")} == {
        "request_id": "a",
        "row": 0,
        "time": datetime(2023, 11, 14, 22, 13, 20, 123456, UTC),
        "model_version": "tiny:one",
        "variant": "champion",
        "routing_key": "ann",
        "trace_id": "f" * 32,
        "a": 0.0,
        "b": 1.0,
        "p": 0.0,
        "label": 1.0,
    }
    assert [first[name] for name in AFTER[1:]] == pytest.approx([0.1, 0.2, 0.3, 0.7])
    assert [second[name] for name in ("row", "a", "p", "label")] == [1, 1.0, 0.5, 0.0]


def test_a_row_without_a_label_of_its_own_has_none(engine: Engine) -> None:
    log(engine, "no labels")
    log(engine, "too few", 2, [1.0])
    log(engine, "labelled", 2, [1.0, 0.0])
    assert [row["label"] for row in read(engine)] == [None, None, None, 1.0, 0.0]
    assert seen(engine, is_labelled=True) == [("labelled", 0), ("labelled", 1)]


def test_of_a_request_that_was_tried_again_the_last_answer_is_labelled(engine: Engine) -> None:
    log(engine, "a", came=[1.0], variant="champion")
    log(engine, "a", came=[1.0], variant="canary")
    assert [row["variant"] for row in read(engine)] == ["champion", "canary"]
    assert [row["variant"] for row in read(engine, Selection(0, 1e10, is_labelled=True))] == ["canary"]


def test_versions_with_other_features_stand_in_one_table(engine: Engine) -> None:
    log(engine, "a")
    log(engine, "b", model_version="tiny:two", predictions="[[0.25,0.75]]")
    one, two = read(engine)
    assert list(one) == list(two) == [*BEFORE, "a", "b", "c", "p", "q_0", "q_1", *AFTER]
    names = ("a", "b", "c", "p", "q_0", "q_1")
    assert [one[name] for name in names] == [0.0, 1.0, None, 0.0, None, None]
    assert [two[name] for name in names] == [None, 0.0, 1.0, None, 0.25, 0.75]


def test_a_version_that_nobody_knows_any_more_has_numbered_features(engine: Engine) -> None:
    log(engine, "a", model_version="gone:one")
    (row,) = read(engine)
    assert [row[name] for name in ("feature_0", "feature_1", "prediction")] == [0.0, 1.0, 0.0]


def test_a_column_of_the_log_gives_way_to_a_feature_of_its_name(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CONTRACTS, "tiny:one", Contract((Feature("label"), Feature("time")), Output("p")))
    log(engine, "a", came=[0.5])
    (row,) = read(engine)
    assert (row["label"], row["label_"], row["time"], row["time_"].year) == (0.0, 0.5, 1.0, 2023)


def test_the_selection_is_by_time_and_version_and_the_newest(engine: Engine) -> None:
    for i in range(4):
        log(engine, f"{i}", 2, time=float(i), model_version="tiny:one" if i < 3 else "gone:one")
    assert [name for name, row in seen(engine, since=1, until=3) if row == 0] == ["1", "2"]
    assert seen(engine, version="gone:one") == [("3", 0), ("3", 1)]
    assert seen(engine, version="tiny:one", limit=3) == [("1", 1), ("2", 0), ("2", 1)]
    assert seen(engine, limit=1) == [("3", 1)]
    assert len(seen(engine, limit=100)) == 8


def test_an_empty_log_has_the_log_s_own_columns_and_no_rows(engine: Engine) -> None:
    with engine.connect() as connection:
        found = Reading(connection, ALL, CONTRACTS.get)
        assert (found.columns, list(found)) == ((*BEFORE, *AFTER), [])


@pytest.mark.parametrize(("rows_at_once", "requests_at_once"), [(1, 3), (4, 1), (4, 4), (100, 100)])
def test_the_parts_are_the_whole_in_its_order(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, rows_at_once: int, requests_at_once: int
) -> None:
    monkeypatch.setattr(reading, "ROWS_AT_ONCE", rows_at_once)
    monkeypatch.setattr(reading, "REQUESTS_AT_ONCE", requests_at_once)
    sizes = [1, 2, 7, 1, 1, 3, 1, 1, 1]
    for i, n_rows in enumerate(sizes):
        log(engine, f"{i}", n_rows)
    with engine.connect() as connection:
        parts = list(Reading(connection, ALL, CONTRACTS.get))
    assert all(len(part["row"]) <= max(rows_at_once, len(set(part["request_id"])) == 1 and 7) for part in parts)
    assert seen(engine) == [(f"{i}", row) for i, n_rows in enumerate(sizes) for row in range(n_rows)]
