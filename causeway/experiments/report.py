"""One experiment at one look: everything that the prediction log says about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from causeway.experiments import outcomes
from causeway.experiments.measure import ALPHA, Measure, measure
from causeway.experiments.period import Period
from causeway.experiments.verdict import verdict


@dataclass(frozen=True)
class Report:
    """One experiment, at one look."""

    period: Period
    since: float | None
    """Answers from then on count, in seconds since 1970; None before the variant answered anything."""
    scores: Measure
    labels: Measure
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"confidence": 1 - ALPHA / 2}


def report(connection: Connection, period: Period, asked_since: float = 0.0) -> Report:
    """What the prediction log says about `period`, from `asked_since` on, in seconds since 1970."""
    began = outcomes.start(connection, period)
    since = None if began is None else max(began, asked_since)
    scores, labels = (
        measure(outcomes.NONE if since is None else read(connection, period, since), period.share)
        for read in (outcomes.scores, outcomes.labelled)
    )
    return Report(period, since, scores, labels, verdict(period, scores, labels))
