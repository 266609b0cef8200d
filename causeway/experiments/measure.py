"""Scores, or labels, of a variant beside the champion's: the means, their difference, and the sample ratio."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from causeway.experiments import sequence
from causeway.experiments.outcomes import Outcomes
from causeway.experiments.sequence import Intervals

ALPHA = 0.05
"""How often a verdict, at any look, finds a difference where there is none; half of it for labels, half for scores."""

RATIO_ALPHA = 0.001
"""How often a sample ratio is called off although it is right; rarely, as all else is put aside then."""


@dataclass(frozen=True)
class Interval:
    """An estimate between bounds that hold at every look."""

    low: float
    value: float
    high: float

    @classmethod
    def last(cls, found: Intervals) -> Interval:
        """After the last unit."""
        return cls(*(float(bound[-1]) for bound in found))


@dataclass(frozen=True)
class SampleRatio:
    """The variant's share of the units, of those that one of the two had."""

    expected: float
    observed: float | None
    """None before there is a unit."""
    p_value: float
    """Always valid: however often it is looked at, it falls to x with a probability of at most x."""

    @property
    def is_off(self) -> bool:
        """Whether chance hardly ever gives this."""
        return self.p_value <= RATIO_ALPHA


@dataclass(frozen=True)
class Measure:
    """Scores, or labels, of the two; pairs are (champion, variant)."""

    requests: tuple[int, int]
    rows: tuple[int, int]
    total: tuple[float, float]
    """Sums over all rows; of labels, the conversions."""
    units: tuple[int, int]
    ratio: SampleRatio
    means: tuple[Interval, Interval] | None
    """Over units; None where one of the two has none, or where outcomes are not between 0 and 1."""
    difference: Interval | None
    """The variant's mean less the champion's, by what each unit's share would be; None where `means` is."""
    is_bounded: bool
    """Whether all outcomes are between 0 and 1."""


def measure(observed: Outcomes, share: float) -> Measure:
    """The two beside each other; `share`: the variant's probability for a unit that one of them gets."""
    y, is_variant, alpha = observed.y, observed.is_variant, ALPHA / 2
    is_bounded = bool(((y >= 0) & (y <= 1)).all())
    means, difference = None, None
    if is_bounded and min(observed.units):
        champion, variant = (
            Interval.last(sequence.intervals(_last(sequence.mean_sums(y[arm])), alpha, least=0.0))
            for arm in (~is_variant, is_variant)
        )
        means = champion, variant
        sums = _last(sequence.difference_sums(y, is_variant, share))
        difference = Interval.last(sequence.intervals(sums, alpha, least=-1.0))
    return Measure(
        observed.requests,
        observed.rows,
        observed.total,
        observed.units,
        sample_ratio(observed.units, share),
        means,
        difference,
        is_bounded,
    )


def sample_ratio(units: tuple[int, int], share: float) -> SampleRatio:
    """Whether the variant's units (of champion, variant) are as many as its share says."""
    champion, variant = (np.array(float(n)) for n in units)
    e = float(sequence.ratio_evidence(champion, variant, share))
    return SampleRatio(share, units[1] / sum(units) if sum(units) else None, math.exp(-max(0.0, e)))


def _last(sums: sequence.Sums) -> sequence.Sums:
    return sequence.Sums(*(np.asarray(part[-1:]) for part in sums))
