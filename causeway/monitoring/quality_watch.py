"""The keeper's eye on quality: what the labels that came, and the scores alone, say of each version."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from causeway import logs, store
from causeway.errors import VersionNotFound, VersionRefused
from causeway.monitoring.model_metrics import ModelMetrics
from causeway.monitoring.outcomes import versions
from causeway.monitoring.quality_report import report
from causeway.quality.working import Working

SPAN_S = 7 * 86_400.0
"""How far back it looks, as `causeway quality` does."""


class QualityWatch:
    """Shows the quality of the versions that answered."""

    def __init__(self, metrics: ModelMetrics) -> None:
        self._metrics = metrics
        self._working: dict[str, Working] = {}

    def show(self, connection: Connection, now: float) -> None:
        """Sets the gauges, from what the database has."""
        for tag in versions(connection, now - SPAN_S):
            if tag not in self._working:
                self._working[tag] = _read(tag)
            found = report(connection, tag, self._working[tag], now - SPAN_S)
            self._metrics.quality(tag, found.metrics(), n_labels=found.quality.rows)
            self._metrics.estimated(tag, found.estimates())


def _read(tag: str) -> Working:
    """What training left with the version; where nobody can read it, as if it were nothing, which is logged."""
    try:
        return Working.from_json(store.find(tag).read("evaluation.json"))
    except (VersionNotFound, VersionRefused, msgspec.DecodeError) as exc:
        logs.get().warning("no_evaluation", model_version=tag, reason=str(exc))
        return Working()
