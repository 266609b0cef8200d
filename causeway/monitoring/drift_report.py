"""What the drift windows on record say about a version: GET /drift, and `causeway drift`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from causeway.drift.comparison import Comparison, compare, since, skew
from causeway.drift.history import Stretch, fold
from causeway.drift.reference import Reference
from causeway.drift.statistics import PSI_LARGE, PSI_MODERATE
from causeway.drift.window import Window
from causeway.monitoring.database import drift_windows


@dataclass(frozen=True)
class DriftReport:
    """Of one version, over the windows that closed in a span of time."""

    model_version: str
    windows: list[Stretch]
    """Of at least as many rows as were asked for, in order; the last are those that the others are about."""
    latest: Comparison | None
    """Of the last window with the reference; None before there was one."""
    drifted_since: dict[str, float]
    """By column that has drifted: when the first window of the unbroken run opened, in seconds since 1970."""
    whole: Comparison | None
    """Of all windows together with the reference."""
    skew: Comparison | None
    """Of all windows together with the rows that the version learnt from."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        last = self.windows[-1] if self.windows else None
        return {
            "model_version": self.model_version,
            "windows": len(self.windows),
            "opened": None if last is None else iso(last.opened),
            "closed": None if last is None else iso(last.closed),
            "drifted_since": {name: iso(opened) for name, opened in self.drifted_since.items()},
            "latest": None if self.latest is None else self.latest.to_dict(),
            "whole": None if self.whole is None else self.whole.to_dict(),
            "psi_by_rule_of_thumb": {"moderate": PSI_MODERATE, "large": PSI_LARGE},
            "skew": None if self.skew is None else self.skew.to_dict(),
        }


def report(
    connection: Connection, model_version: str, reference: Reference, *, n_rows: int, opened_after: float
) -> DriftReport:
    """What there is on record since `opened_after`, in seconds since 1970, in windows of at least `n_rows` rows."""
    stretches = _recorded(connection, model_version, opened_after)
    windows = fold(stretches, n_rows)
    compared = [compare(reference, each.window) for each in windows]
    whole = sum((each.window for each in stretches), start=reference.empty())
    return DriftReport(
        model_version,
        windows,
        compared[-1] if compared else None,
        {name: windows[first].opened for name, first in since(compared).items()} if compared else {},
        compare(reference, whole) if stretches else None,
        skew(reference, whole) if stretches else None,
    )


def iso(seconds: float) -> str:
    """Seconds since 1970 as people and programs read it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _recorded(connection: Connection, model_version: str, opened_after: float) -> list[Stretch]:
    columns = drift_windows.c
    query = (
        select(columns.opened, columns.closed, columns.counts)
        .where(columns.model_version == model_version, columns.closed >= opened_after)
        .order_by(columns.closed, columns.id)
    )
    recorded = connection.execute(query)
    return [Stretch(opened, closed, Window.from_json(counts)) for opened, closed, counts in recorded]
