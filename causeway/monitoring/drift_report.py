"""What the drift windows on record say about a version: GET /drift, and `causeway drift`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, select

from causeway.drift.comparison import Comparison, compare, skew
from causeway.drift.history import Stretch
from causeway.drift.reference import Reference
from causeway.drift.statistics import PSI_LARGE, PSI_MODERATE
from causeway.drift.window import Window
from causeway.monitoring.database import drift_windows


@dataclass(frozen=True)
class Alarm:
    """A column that drifted in windows without a break."""

    column: str
    opened: float
    """When the first of them opened, in seconds since 1970."""
    closed: float
    """When the last of them closed."""
    windows: int
    is_over: bool
    """Whether there was a window since, in which it did not."""


@dataclass(frozen=True)
class DriftReport:
    """Of one version, over the windows that closed in a span of time."""

    model_version: str
    windows: list[Stretch]
    """Complete ones, in the order in which they closed."""
    latest: Comparison | None
    """Of the last of them with the reference; None before there was one."""
    alarms: list[Alarm]
    """In the order in which they began."""
    whole: Comparison | None
    """Of all traffic together, that of windows which are still open too, with the reference."""
    skew: Comparison | None
    """The same with the rows that the version learnt from."""

    @property
    def drifted_since(self) -> dict[str, float]:
        """By column that has drifted in the last window: when the first of the unbroken run opened."""
        return {alarm.column: alarm.opened for alarm in self.alarms if not alarm.is_over}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        last = self.windows[-1] if self.windows else None
        alarms = [{**asdict(each), "opened": iso(each.opened), "closed": iso(each.closed)} for each in self.alarms]
        return {
            "model_version": self.model_version,
            "windows": len(self.windows),
            "opened": None if last is None else iso(last.opened),
            "closed": None if last is None else iso(last.closed),
            "drifted_since": {name: iso(opened) for name, opened in self.drifted_since.items()},
            "alarms": alarms,
            "latest": None if self.latest is None else self.latest.to_dict(),
            "whole": None if self.whole is None else self.whole.to_dict(),
            "psi_by_rule_of_thumb": {"moderate": PSI_MODERATE, "large": PSI_LARGE},
            "skew": None if self.skew is None else self.skew.to_dict(),
        }


def report(
    connection: Connection,
    model_version: str,
    reference: Reference,
    *,
    n_rows: int,
    seconds: float,
    since: float,
    until: float = math.inf,
) -> DriftReport:
    """What closed between two times, in seconds since 1970; n_rows, seconds: what a complete window has at least."""
    stretches = _recorded(connection, model_version, since, until)
    windows = [each for each in stretches if each.is_complete(n_rows, seconds)]
    compared = [compare(reference, each.window) for each in windows]
    whole = sum((each.window for each in stretches), start=reference.empty())
    return DriftReport(
        model_version,
        windows,
        compared[-1] if compared else None,
        _alarms(windows, compared),
        compare(reference, whole) if stretches else None,
        skew(reference, whole) if stretches else None,
    )


def _alarms(windows: Sequence[Stretch], compared: Sequence[Comparison]) -> list[Alarm]:
    alarms: list[Alarm] = []
    running: dict[str, Alarm] = {}
    for window, comparison in zip(windows, compared, strict=True):
        over = running.keys() - set(comparison.drifted)
        alarms += [replace(running.pop(column), is_over=True) for column in over]
        for column in comparison.drifted:
            begun = running.get(column) or Alarm(column, window.opened, window.closed, 0, is_over=False)
            running[column] = replace(begun, closed=window.closed, windows=begun.windows + 1)
    return sorted([*alarms, *running.values()], key=lambda alarm: (alarm.opened, alarm.column))


def iso(seconds: float) -> str:
    """Seconds since 1970 as people and programs read it, in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


def _recorded(connection: Connection, model_version: str, since: float, until: float) -> list[Stretch]:
    columns = drift_windows.c
    query = (
        select(columns.opened, columns.closed, columns.counts)
        .where(columns.model_version == model_version, columns.closed.between(since, until))
        .order_by(columns.closed, columns.id)
    )
    recorded = connection.execute(query)
    return [Stretch(opened, closed, Window.from_json(counts)) for opened, closed, counts in recorded]
