"""How good a version is by the prediction log: gauges in /metrics, and `causeway quality`."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection

from causeway.monitoring.drift_report import iso
from causeway.monitoring.outcomes import labelled, unlabelled
from causeway.quality.estimate import Estimate, estimate
from causeway.quality.measures import Quality, measure
from causeway.quality.working import Working

METRICS = (
    "average_precision",
    "auc_roc",
    "precision",
    "recall",
    "card_precision_at_100",
    "calibration_error",
    "brier_score",
)
ESTIMATES = ("positives", "average_precision", "auc_roc", "precision", "recall")


@dataclass(frozen=True)
class QualityReport:
    """Of one version, over the answers of a span of time."""

    model_version: str
    since: float
    until: float
    """In seconds since 1970, as is `since`; infinite where there is no end."""
    working: Working
    quality: Quality
    """Of the rows with labels."""
    unlabelled: int
    """Rows without."""
    estimate: Estimate | None
    """Of the rows without labels; None where the version has no calibration map."""

    def metrics(self) -> dict[str, float]:
        """What is defined of the quality, by name; the positives as a share of the rows."""
        quality = self.quality
        share = quality.positives / quality.rows if quality.rows else None
        figures = {"positives": share} | {name: getattr(quality, name) for name in METRICS}
        return {name: figure for name, figure in figures.items() if figure is not None}

    def estimates(self) -> dict[str, tuple[float, float, float]]:
        """What is defined of the estimate, by name: low, estimate, high."""
        found = {name: getattr(self.estimate, name, None) for name in ESTIMATES}
        return {name: (each.low, each.value, each.high) for name, each in found.items() if each is not None}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model_version": self.model_version,
            "since": iso(self.since),
            "until": iso(self.until) if math.isfinite(self.until) else None,
            "threshold": self.working.threshold,
            "is_default_threshold": self.working.chosen is None,
            "quality": asdict(self.quality),
            "unlabelled": self.unlabelled,
            "estimate": None if self.estimate is None else asdict(self.estimate),
        }


def report(
    connection: Connection, model_version: str, working: Working, since: float, until: float = math.inf
) -> QualityReport:
    """What `model_version` answered from `since` to before `until`, in seconds since 1970.

    Reads at most `MAX_ROWS` rows with labels and as many without, which takes 1 to 2 s of CPU time.
    """
    known = labelled(connection, model_version, since, until)
    waiting = unlabelled(connection, model_version, since, until)
    estimated = None
    if working.calibration_map is not None:
        estimated = estimate(waiting.scores, working.calibration_map, working.threshold, entity=waiting.entity)
    return QualityReport(
        model_version,
        since,
        until,
        working,
        measure(known.y, known.scores, working.threshold, entity=known.entity, day=known.day),
        len(waiting.scores),
        estimated,
    )
