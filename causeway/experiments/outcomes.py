"""What the prediction log says about two versions: scores and labels, by unit of randomisation.

A routing key has one variant for ever, so the key is the unit, and for a request without one the request. Rows of one
unit belong together; as independent observations they would promise a certainty that is not there. So every unit counts
once: for scores with its first request, for labels with the first that was labelled, as the mean over that request's
rows. Which requests come later may depend on what the variant answered, and a sum over them that still grows could not
be looked at again and again.

Units come in the order in which they were known: scores as they were given, labels as they arrived. Labels may be late,
and early labels may be unlike late ones, as long as that is the same for both variants.

Requests that ask for a version by X-Model-Version are not dealt out: the log has them under a role of their own, and
they count for neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from causeway.experiments.period import Period
from causeway.experiments.sequence import Flags, Floats
from causeway.monitoring.database import labels, predictions

SETTLING_S = 1.0
"""For so long after the variant's first answer some workers may not have taken up the change; this is not counted."""

AT_ONCE = 10_000
"""Requests that are held in memory at a time."""


@dataclass(frozen=True)
class Outcomes:
    """Of the champion and of the variant; pairs are (champion, variant)."""

    is_variant: Flags
    """(n_units,): who had the unit, in the order in which the outcomes were known."""
    y: Floats
    """(n_units,): what each unit counts."""
    requests: tuple[int, int]
    rows: tuple[int, int]
    total: tuple[float, float]
    """Sums over all rows, also over those that do not count."""

    @property
    def units(self) -> tuple[int, int]:
        """Units of each."""
        n_variant = int(np.count_nonzero(self.is_variant))
        return len(self.is_variant) - n_variant, n_variant


NONE = Outcomes(np.zeros(0, np.bool_), np.zeros(0), (0, 0), (0, 0), (0.0, 0.0))


def start(connection: Connection, period: Period) -> float | None:
    """When all workers had taken up the change, in seconds since 1970; None before the variant answered anything."""
    given = _given(period.role, period.variant), predictions.c.time >= period.begun, *_until(period)
    first = connection.execute(select(func.min(predictions.c.time)).where(*given)).scalar()
    return None if first is None else float(first) + SETTLING_S


def scores(connection: Connection, period: Period, since: float) -> Outcomes:
    """The first output of every row, of requests that were answered from `since` on, in seconds since 1970."""
    columns = predictions.c
    query = (
        select(columns.variant, columns.routing_key, columns.request_id, columns.predictions)
        .where(*_compared(period, since))
        .order_by(columns.time, columns.id)
    )
    decoder = msgspec.json.Decoder(list[list[float]])
    rows = _stream(connection, query)
    return _gathered(period, ((row, [outputs[0] for outputs in decoder.decode(row[3])]) for row in rows))


def labelled(connection: Connection, period: Period, since: float) -> Outcomes:
    """The labels of requests that were answered from `since` on, in seconds since 1970."""
    columns = predictions.c
    query = (
        select(columns.variant, columns.routing_key, columns.request_id, labels.c.labels)
        .join_from(labels, predictions, labels.c.request_id == columns.request_id)
        .where(*_compared(period, since))
        .order_by(labels.c.time, columns.id)
    )
    decoder = msgspec.json.Decoder(list[float])
    return _gathered(period, ((row, decoder.decode(row[3])) for row in _stream(connection, query)))


def _stream(connection: Connection, query: Any) -> Iterable[Any]:
    return connection.execution_options(yield_per=AT_ONCE).execute(query)


def _gathered(period: Period, requests: Iterable[tuple[Any, list[float]]]) -> Outcomes:
    n_requests, n_rows, total = [0, 0], [0, 0], [0.0, 0.0]
    seen: set[tuple[str | None, str | None]] = set()
    is_variant, y = bytearray(), []
    for (variant, key, request_id, _), values in requests:
        side = variant == period.role
        n_requests[side] += 1
        n_rows[side] += len(values)
        summed = sum(values)
        total[side] += summed
        unit = (key, None if key else request_id)
        if unit not in seen:
            seen.add(unit)
            is_variant.append(side)
            y.append(summed / len(values))
    return Outcomes(
        np.frombuffer(is_variant, np.bool_),
        np.array(y, np.float64),
        (n_requests[0], n_requests[1]),
        (n_rows[0], n_rows[1]),
        (total[0], total[1]),
    )


def _compared(period: Period, since: float) -> list[ColumnElement[bool]]:
    either = or_(_given("champion", period.champion), _given(period.role, period.variant))
    return [either, predictions.c.time >= since, *_until(period)]


def _given(role: str, tag: str) -> ColumnElement[bool]:
    return and_(predictions.c.variant == role, predictions.c.model_version == tag)


def _until(period: Period) -> list[ColumnElement[bool]]:
    return [] if period.ended is None else [predictions.c.time <= period.ended]
