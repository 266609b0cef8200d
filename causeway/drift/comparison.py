"""How far a window is from the reference, column by column, and whether that is more than chance would do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from causeway.drift.reference import MIN_ROWS, Column, Reference
from causeway.drift.statistics import closed, degrees_of_freedom, measure
from causeway.drift.window import Window

MAX_REFUSED_SHARE = 0.01
"""A column alarms where more of its rows than this were refused because the value was missing, or out of range.

A constant, not a threshold with a false-alarm rate: what the contract refuses is never right.
"""

_BARS = " ▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Statistic:
    """One measure of how far the two distributions of a column are apart."""

    value: float | None
    """None for a window without rows."""
    threshold: float | None
    """What chance hardly ever exceeds; None where it is not known: too few rows, not calibrated, or skew."""
    degrees_of_freedom: int | None = None
    """Of chi-squared."""

    @property
    def is_exceeded(self) -> bool:
        """Whether the value is above the threshold."""
        return self.value is not None and self.threshold is not None and self.value > self.threshold

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        degrees = {} if self.degrees_of_freedom is None else {"degrees_of_freedom": self.degrees_of_freedom}
        return {"value": self.value, "threshold": self.threshold, "is_exceeded": self.is_exceeded, **degrees}


@dataclass(frozen=True)
class ColumnComparison:
    """One column of the window beside the reference's."""

    name: str
    statistics: Mapping[str, Statistic]
    """`psi`, `ks`, `bin_deviance`, and for few values `chi_squared`."""
    reference_mean: float | None
    """Of the held-out rows; None for skew, as is the standard deviation."""
    mean: float | None
    """None without values, as is `standard_deviation`."""
    reference_standard_deviation: float | None
    standard_deviation: float | None
    unseen: float
    """The share of the values outside of all that the reference has seen, 0 to 1."""
    missing: float
    """The share of the rows that were refused because this value was missing or no number, 0 to 1."""
    out_of_range: float
    """The share of the rows that were refused because this value was outside of the contract's range, 0 to 1."""
    alarms: tuple[str, ...]
    """What says that the column has drifted: statistics, `missing`, `out_of_range`."""
    edges: tuple[float, ...]
    """Between the bins, (n_bins - 1,)."""
    reference_shares: tuple[float, ...]
    """The reference's distribution, (n_bins,)."""
    shares: tuple[float, ...]
    """The window's, (n_bins,); zeros without values."""

    @property
    def is_drifted(self) -> bool:
        """Whether anything alarms."""
        return bool(self.alarms)

    def bars(self) -> tuple[str, str]:
        """The reference's distribution and the window's: a character a bin, on one scale, a blank for an empty bin."""
        largest = max(*self.reference_shares, *self.shares)
        return _bars(self.reference_shares, largest), _bars(self.shares, largest)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        then, now = self.bars()
        return {
            "name": self.name,
            "is_drifted": self.is_drifted,
            "alarms": list(self.alarms),
            "statistics": {name: statistic.to_dict() for name, statistic in self.statistics.items()},
            "mean": {"reference": self.reference_mean, "current": self.mean},
            "standard_deviation": {
                "reference": self.reference_standard_deviation,
                "current": self.standard_deviation,
            },
            "unseen": self.unseen,
            "missing": self.missing,
            "out_of_range": self.out_of_range,
            "edges": list(self.edges),
            "shares": {"reference": list(self.reference_shares), "current": list(self.shares)},
            "bars": {"reference": then, "current": now},
        }


@dataclass(frozen=True)
class Comparison:
    """A window beside the reference."""

    rows: int
    columns: tuple[ColumnComparison, ...]
    rate: float | None
    """The stated false-alarm rate of the statistics of all columns together; None where nothing can alarm."""

    @property
    def is_enough(self) -> bool:
        """Whether the window has the `MIN_ROWS` rows without which no statistic alarms."""
        return self.rows >= MIN_ROWS

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the columns that have drifted."""
        return tuple(column.name for column in self.columns if column.is_drifted)

    @property
    def is_drifted(self) -> bool:
        """Whether any column has."""
        return bool(self.drifted)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rows": self.rows,
            "is_enough": self.is_enough,
            "is_drifted": self.is_drifted,
            "drifted": list(self.drifted),
            "false_alarm_rate": self.rate,
            "columns": [column.to_dict() for column in self.columns],
        }


def compare(reference: Reference, window: Window) -> Comparison:
    """Drift: the window, counted by `reference`, beside the held-out rows."""
    columns = tuple(
        _column(column, np.array(column.counts), window, place, is_drift=True)
        for place, column in enumerate(reference.columns)
    )
    return Comparison(window.rows, columns, reference.rate)


def skew(reference: Reference, window: Window) -> Comparison:
    """Training-serving skew: the window beside the training rows, for the columns that these were counted of.

    Measured, never an alarm: training rows are older than the held-out ones by the delay of their labels, so that what
    chance and time do to the difference is not what the thresholds were calibrated for.
    """
    columns = tuple(
        _column(column, np.array(column.training_counts), window, place, is_drift=False)
        for place, column in enumerate(reference.columns)
        if column.training_counts is not None
    )
    return Comparison(window.rows, columns, None)


def _column(
    column: Column, expected: NDArray[np.int64], window: Window, place: int, *, is_drift: bool
) -> ColumnComparison:
    counts, n_values = window.counts[place], int(window.n_values[place])
    statistics = {
        name: _statistic(name, expected, counts, column.threshold(name, n_values) if is_drift else None)
        for name in column.statistics
    }
    refused = {"missing": int(window.missing[place]), "out_of_range": int(window.out_of_range[place])}
    n_rows = n_values + sum(refused.values())
    shares = {why: n / max(n_rows, 1) for why, n in refused.items()}
    alarms = [name for name, statistic in statistics.items() if statistic.is_exceeded]
    if is_drift and n_rows >= MIN_ROWS:
        alarms += [why for why, share in shares.items() if share > MAX_REFUSED_SHARE]
    return ColumnComparison(
        name=column.name,
        statistics=statistics,
        reference_mean=column.mean if is_drift else None,
        mean=_finite(window.means[place]),
        reference_standard_deviation=column.standard_deviation if is_drift else None,
        standard_deviation=_finite(window.standard_deviations[place]),
        unseen=int(counts[0] + counts[-1]) / max(n_values, 1),
        missing=shares["missing"],
        out_of_range=shares["out_of_range"],
        alarms=tuple(alarms),
        edges=tuple(column.edges),
        reference_shares=_shares(expected),
        shares=_shares(counts),
    )


def _statistic(name: str, expected: NDArray[np.int64], counts: NDArray[np.int64], threshold: float | None) -> Statistic:
    degrees = degrees_of_freedom(closed(expected), closed(counts)) if name == "chi_squared" else None
    return Statistic(_finite(measure(name, expected, counts)), threshold, degrees)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _shares(counts: NDArray[np.int64]) -> tuple[float, ...]:
    return tuple((counts / max(int(counts.sum()), 1)).tolist())


def _bars(shares: Sequence[float], largest: float) -> str:
    return "".join(_BARS[math.ceil(share / largest * (len(_BARS) - 1))] for share in shares)
