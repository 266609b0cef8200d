"""Rows come out of the prediction log with their labels, once each, and no more of them than there is time for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, insert

from causeway.monitoring import outcomes
from causeway.monitoring.database import connect, labels, predictions, sqlite_url
from causeway.monitoring.outcomes import labelled, unlabelled, versions


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    engine = connect(sqlite_url(tmp_path / "log.sqlite"))
    with engine.connect() as opened:
        yield opened
    engine.dispose()


def answer(
    connection: Connection,
    request_id: str,
    scores: list[float | None],
    time: float,
    *,
    version: str = "tiny:a",
    key: str | None = None,
) -> None:
    timings = dict.fromkeys(("decode_ms", "queue_ms", "compute_ms", "latency_ms"), 0.1)
    values: dict[str, Any] = {
        "request_id": request_id,
        "time": time,
        "model_version": version,
        "variant": "champion",
        "routing_key": key,
        "n_rows": len(scores),
        "features": json.dumps([[0.0]] * len(scores)),
        "predictions": json.dumps([[score] for score in scores]),
    }
    connection.execute(insert(predictions).values(**values, **timings))


def label(connection: Connection, request_id: str, given: list[Any], time: float) -> None:
    connection.execute(insert(labels).values(request_id=request_id, labels=json.dumps(given), time=time))


def test_a_row_has_the_label_of_its_place(connection: Connection) -> None:
    answer(connection, "a", [0.1, 0.9], 100)
    answer(connection, "b", [0.5], 200)
    answer(connection, "c", [0.7], 300)
    label(connection, "a", [0, 1], 400)
    label(connection, "b", [0], 500)
    known, waiting = labelled(connection, "tiny:a", 0), unlabelled(connection, "tiny:a", 0)
    assert sorted(zip(known.scores, known.y, known.time, strict=True)) == [(0.1, 0, 100), (0.5, 0, 200), (0.9, 1, 100)]
    assert (waiting.scores.tolist(), waiting.time.tolist()) == ([0.7], [300])
    assert known.entity is None


def test_a_late_label_counts_at_the_time_of_the_answer(connection: Connection) -> None:
    answer(connection, "old", [0.1], 100)
    answer(connection, "new", [0.2], 200)
    label(connection, "old", [1], 9e9)
    label(connection, "new", [1], 9e9 + 1)
    assert labelled(connection, "tiny:a", 150).scores.tolist() == [0.2]
    assert labelled(connection, "tiny:a", 100, 200).scores.tolist() == [0.1]
    assert labelled(connection, "tiny:a", 0, math.inf).time.tolist() == [200, 100]
    assert (labelled(connection, "tiny:a", 0).day == 0).all()


def test_versions_are_told_apart(connection: Connection) -> None:
    answer(connection, "a", [0.1], 100)
    answer(connection, "b", [0.2], 200, version="tiny:b")
    label(connection, "b", [1], 300)
    assert versions(connection, 0) == ["tiny:a", "tiny:b"]
    assert versions(connection, 150) == ["tiny:b"]
    assert labelled(connection, "tiny:a", 0).scores.size == 0
    assert labelled(connection, "tiny:b", 0).scores.tolist() == [0.2]
    assert unlabelled(connection, "tiny:b", 0).scores.size == 0


def test_labels_that_are_neither_0_nor_1_and_predictions_that_are_no_number_are_left_out(
    connection: Connection,
) -> None:
    answer(connection, "a", [0.1, 0.2, None, 0.4], 100)
    label(connection, "a", [0.5, 1, 1, 0], 200)
    assert sorted(labelled(connection, "tiny:a", 0).scores) == [0.2, 0.4]
    answer(connection, "b", [0.1, 0.2], 100)
    label(connection, "b", [1], 200)
    assert sorted(labelled(connection, "tiny:a", 0).scores) == [0.2, 0.4]


def test_a_request_that_was_tried_again_counts_once(connection: Connection) -> None:
    for time in (100, 101):
        answer(connection, "again", [0.3], time)
    assert unlabelled(connection, "tiny:a", 0).scores.tolist() == [0.3]
    label(connection, "again", [1], 200)
    assert labelled(connection, "tiny:a", 0).scores.tolist() == [0.3]


def test_rows_of_one_routing_key_are_one_entity_and_those_without_are_each_their_own(connection: Connection) -> None:
    for name, key in (("a", "card"), ("b", None), ("c", "card"), ("d", None)):
        answer(connection, name, [0.1, 0.2], 100, key=key)
    entity = unlabelled(connection, "tiny:a", 0).entity
    assert entity is not None
    assert len(set(entity.tolist())) == 5


def test_only_the_newest_rows_are_read_of_very_many(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcomes, "MAX_ROWS", 3)
    for i in range(5):
        answer(connection, f"labelled-{i}", [i / 10], i)
        label(connection, f"labelled-{i}", [0], 100 + i)
        answer(connection, f"waiting-{i}", [i / 10, i / 10], i)
    assert labelled(connection, "tiny:a", 0).scores.tolist() == [0.4, 0.3, 0.2]
    assert unlabelled(connection, "tiny:a", 0).scores.tolist() == [0.4, 0.4, 0.3]
