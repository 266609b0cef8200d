"""Scores out of the prediction log, and the labels that came for them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import Connection, Select, func, null, select

from causeway.monitoring.database import labels, predictions
from causeway.quality.measures import Labels, Numbers, Scores

MAX_ROWS = 100_000
"""Rows that are read at most."""

DAY_S = 86_400
_AT_ONCE = 1_000
"""Requests that are fetched from the database in one go."""

_decode = msgspec.json.Decoder(list[Any]).decode


@dataclass(frozen=True)
class Scored:
    """n rows that a version answered."""

    scores: Scores
    """(n,) the first number of each prediction."""
    time: Scores
    """(n,) when they were answered, in seconds since 1970."""
    entity: Numbers | None
    """(n,) a number for each routing key, and one for each row without; None where no row has a key."""

    @property
    def day(self) -> Numbers:
        """(n,) days since 1970, in UTC."""
        return (self.time // DAY_S).astype(np.int64)


@dataclass(frozen=True)
class Labelled(Scored):
    """n rows that a version answered, with what became of them."""

    y: Labels
    """(n,) 0 or 1."""


def labelled(connection: Connection, model_version: str, since: float, until: float = math.inf) -> Labelled:
    """Rows that `model_version` answered from `since` to before `until`, in seconds since 1970, with labels of 0 or 1.

    A late label counts at the time of the answer. Of the labels of all versions since then, the newest `MAX_ROWS` are
    looked at.
    """
    newest = select(labels).where(labels.c.time >= since).order_by(labels.c.time.desc()).limit(MAX_ROWS).subquery()
    asked = _answers(model_version, since, until, newest.c.labels)
    asked = asked.join(newest, predictions.c.request_id == newest.c.request_id)
    rows = [row for row in _rows(connection, asked.order_by(newest.c.time.desc())) if row[3] in (0, 1)]
    return Labelled(*_columns(rows), y=np.array([label for *_, label in rows], dtype=np.int8))


def unlabelled(connection: Connection, model_version: str, since: float, until: float = math.inf) -> Scored:
    """Rows that `model_version` answered from `since` to before `until` whose labels have not come.

    The newest `MAX_ROWS` at most.
    """
    asked = _answers(model_version, since, until, null().label("labels"))
    asked = asked.outerjoin(labels, predictions.c.request_id == labels.c.request_id)
    asked = asked.where(labels.c.request_id.is_(None)).order_by(predictions.c.time.desc())
    return Scored(*_columns(list(_rows(connection, asked))))


def versions(connection: Connection, since: float) -> list[str]:
    """The versions that answered from `since` on, in seconds since 1970; in order.

    One after the other out of the index: to ask for all that differ would read it as a whole, and it may be long.
    """
    answer = predictions.c
    found: list[str] = []
    last = ""
    while last is not None:
        last = connection.scalar(select(func.min(answer.model_version)).where(answer.model_version > last))
        newest = connection.scalar(select(func.max(answer.time)).where(answer.model_version == last))
        if newest is not None and newest >= since:
            found.append(last)
    return found


def _answers(model_version: str, since: float, until: float, label: Any) -> Select[Any]:
    answer = predictions.c
    asked = select(answer.request_id, answer.time, answer.routing_key, answer.predictions, label)
    return asked.where(answer.model_version == model_version, answer.time >= since, answer.time < until)


def _rows(connection: Connection, asked: Select[Any]) -> Iterator[tuple[float, float, str | None, Any]]:
    """Score, time, routing key and label of at most `MAX_ROWS` rows; the label is None where none was asked for.

    A request id that was answered more than once, as where a client tried again, counts once. Labels for another number
    of rows than the request had count for none of them.
    """
    answered = connection.execute(asked.limit(MAX_ROWS), execution_options={"yield_per": _AT_ONCE})
    with answered:
        yield from itertools.islice(_each_row(answered), MAX_ROWS)


def _each_row(answered: Any) -> Iterator[tuple[float, float, str | None, Any]]:
    seen = set()
    for request_id, time, key, predicted, given in answered:
        if request_id in seen:
            continue
        seen.add(request_id)
        scores = [score for score, *_ in _decode(predicted)]
        came = [None] * len(scores) if given is None else _decode(given)
        if len(came) != len(scores):
            continue
        for score, label in zip(scores, came, strict=True):
            if score is not None:  # NaN, of which JSON has none
                yield score, time, key, label


def _columns(rows: list[tuple[float, float, str | None, Any]]) -> tuple[Scores, Scores, Numbers | None]:
    """Scores, times and entities."""
    numbers: dict[object, int] = {}
    entity = [numbers.setdefault(i if key is None else key, len(numbers)) for i, (_, _, key, _) in enumerate(rows)]
    return (
        np.array([score for score, *_ in rows], dtype=np.float64),
        np.array([time for _, time, *_ in rows], dtype=np.float64),
        np.array(entity, dtype=np.int64) if any(key is not None for _, _, key, _ in rows) else None,
    )
