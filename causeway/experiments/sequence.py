"""Intervals that hold at every look at once: confidence sequences for a mean, and for the difference of two means.

A difference is tested on randomisation alone. Unit i has an outcome y in [0, 1] and falls to the variant with
probability p. Whatever the two outcomes are that it could have, and whatever means m the units before it predict, let

    x = min(1, (1 - p) / p) (y - m_variant)      where it falls to the variant,
    x = -min(1, p / (1 - p)) (y - m_champion)    where it falls to the champion.

Then x + min(p, 1 - p) (m_variant - m_champion) has the expectation min(p, 1 - p) times the unit's effect, and |x| <= 1.
With S the sum of it less that expectation, and V the sum of x^2, for every rate r in (0, 1) and either sign,

    exp(+-r S - (-log(1 - r) - r) V)

is a supermartingale that begins at 1 (Fan, Grama and Liu, Electronic Journal of Probability 20, 2015; Howard, Ramdas,
McAuliffe and Sekhon, Annals of Statistics 49, 2021, theorem 4 and section 4.2). So is its average over rates and signs,
which exceeds 1 / alpha at any time with a probability of at most alpha (Ville, 1939). It takes no large numbers, no
equal variances, and no outcomes that stay the same over days: the estimate is the mean effect on the units so far.
It takes that every unit counts once, and that its outcome does not change after it was counted.

Why this one: with an interval for each variant and the union of their errors, as by Waudby-Smith and Ramdas (JRSS-B
86, 2024) or by beta mixtures, a difference takes several times the rows to be found
(`load_tests/studies/experiments.py`).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

RATES = np.geomspace(0.005, 0.9, 16)
"""What the evidence is averaged over, evenly by their logarithm.

The best rate is the difference over the variance of the outcome, half of it with even shares: for rare conversions
half the relative difference. So they are good for relative differences from 1 % to 100 %; others take longer.
"""

_BENDS = -np.log1p(-RATES) - RATES
"""What each rate takes off for the squares."""


class Sums(NamedTuple):
    """What an interval comes from; each (..., n_units), after every unit."""

    total: Floats
    """Weighted outcomes."""
    squares: Floats
    """Squares of their distances from what was predicted."""
    weight: Floats
    """What `total` is divided by to give the estimate."""


class Intervals(NamedTuple):
    """Estimates, between bounds that hold at all looks together."""

    low: Floats
    value: Floats
    high: Floats


def difference_sums(y: Floats, is_variant: Flags, share: float) -> Sums:
    """Those of the variant's mean less the champion's.

    y: (..., n_units), in [0, 1], in the order in which they came to be known. is_variant: the same shape. share: in
    (0, 1), the variant's probability for a unit that one of the two gets.
    """
    champion, variant = (_predicted_for(arm, y) for arm in (~is_variant, is_variant))
    x = _weights(is_variant, share) * (y - np.where(is_variant, variant, champion))
    weight = min(share, 1 - share)
    total = np.cumsum(x + weight * (variant - champion), -1)
    return Sums(total, np.cumsum(x * x, -1), np.broadcast_to(weight * np.arange(1.0, y.shape[-1] + 1), y.shape))


def mean_sums(y: Floats) -> Sums:
    """Those of the mean of y (..., n_units), in [0, 1]."""
    squares = np.cumsum((y - _predicted(y)) ** 2, -1)
    return Sums(np.cumsum(y, -1), squares, np.broadcast_to(np.arange(1.0, y.shape[-1] + 1), y.shape))


def intervals(sums: Sums, alpha: float, *, least: float) -> Intervals:
    """From `least` to 1 at most; the probability that one of them, at any look, misses the truth is at most `alpha`."""
    value, radius = sums.total / sums.weight, distance(sums.squares, alpha) / sums.weight
    return Intervals(*(np.clip(bound, least, 1.0) for bound in (value - radius, value, value + radius)))


def evidence(total: Floats, squares: Floats) -> Floats:
    """Logarithm of the e-value against an expected total of 0: at least -log(alpha) hardly ever, if it is 0."""
    e: Floats = np.full(np.shape(total), -np.inf)
    for rate, bend in zip(RATES, _BENDS, strict=True):
        e = np.logaddexp(e, np.logaddexp(rate * total, -rate * total) - bend * squares)
    e -= math.log(2 * len(RATES))
    return e


def distance(squares: Floats, alpha: float) -> Floats:
    """How far the total may be from what is expected before the evidence against that is 1 / alpha: by bisection."""
    squares = np.asarray(squares, np.float64)
    low = np.zeros_like(squares)
    # Where one rate's share of the evidence suffices alone:
    high: Floats = ((math.log(2 * len(RATES) / alpha) + _BENDS * squares[..., None]) / RATES).min(-1)
    for _ in range(50):
        middle = (low + high) / 2
        is_beyond = evidence(middle, squares) >= -math.log(alpha)
        low, high = np.where(is_beyond, low, middle), np.where(is_beyond, middle, high)
    return high


def ratio_evidence(n_champion: Floats, n_variant: Floats, share: float) -> Floats:
    """Logarithm of the e-value against the variant having each unit with probability `share`: a sample-ratio mismatch.

    The same martingale for the units themselves; an always-valid test as that of Lindon and Malek, Anytime-Valid
    Inference for Multinomial Count Data (NeurIPS 2022).
    """
    champion, variant = _weights(np.array([False, True]), share)
    squares = n_champion * champion**2 + n_variant * variant**2
    return evidence(n_champion * champion + n_variant * variant, squares)


def _weights(is_variant: Flags, share: float) -> Floats:
    """What a unit counts: 0 on the average, and 1 for the rarer of the two."""
    return np.where(is_variant, 1 - share, -share) / max(share, 1 - share)


def _predicted(y: Floats) -> Floats:
    """The mean of the outcomes before each, and of one that is 0.5."""
    return (0.5 + np.cumsum(y, -1) - y) / np.arange(1.0, y.shape[-1] + 1)


def _predicted_for(arm: Flags, y: Floats) -> Floats:
    """The mean of an arm's outcomes before each, and of one that is the mean of all."""
    return (_predicted(y) + np.cumsum(y * arm, -1) - y * arm) / (1.0 + np.cumsum(arm, -1) - arm)
