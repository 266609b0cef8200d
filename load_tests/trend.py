"""Whether a figure grows with time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import theilslopes

LEVEL = 0.95
"""Of the interval of a slope."""


@dataclass(frozen=True)
class Trend:
    """A straight line through values in time, by Theil and Sen: outliers do not bend it."""

    level: float
    """The median value."""
    slope: float
    """A second."""
    least: float
    most: float
    """Interval of the slope; where successive values depend on each other it is too narrow."""
    seconds: float
    """From the first value to the last."""

    @classmethod
    def of(cls, at_s: Sequence[float], values: Sequence[float]) -> Trend:
        """Of two values or more. Source: Sen, JASA 63 (1968), as scipy.stats.theilslopes has it."""
        slope, _, least, most = map(float, theilslopes(values, at_s, LEVEL))
        return cls(float(np.median(values)), slope, least, most, at_s[-1] - at_s[0])

    def grows(self, share: float) -> bool:
        """Whether it certainly grows, and by more than this share of its level in this time."""
        return self.least > 0 and self.slope * self.seconds > share * self.level

    def says(self, unit: str, unit_s: float = 3600.0) -> str:
        """Level and interval, by the hour."""
        return (
            f"{self.level:.4g} {unit}, {_signed(self.least * unit_s)} to {_signed(self.most * unit_s)} {unit} an hour"
        )


def _signed(value: float) -> str:
    """Three significant digits, and never a power of ten."""
    return f"{float(f'{value:.3g}'):+,.0f}".replace(",", " ") if abs(value) >= 100 else f"{value:+.3g}"
