"""Whether a canary is worse than the champion, from the figures of both. Pure.

Every comparison allows for chance: what is held against the canary is the end of a confidence interval, not the share
that happened to be seen. So a rollout without a difference goes back rarely, however often it is looked at.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from causeway.figures import Counts, Figures

Z = 4.0
"""Standard normal quantile of the intervals: of 30 000 comparisons without a difference, one errs."""


@dataclass(frozen=True)
class Limits:
    """By how much a canary may be worse."""

    errors: float = 0.001
    """Share of 500 and 504 answers above the champion's."""
    refusals: float = 0.01
    """Share of 503 answers above the champion's."""
    p99_ratio: float = 1.5
    """p99 latency over the champion's."""
    p99_s: float = 0.005
    """p99 latency above the champion's, in seconds, which is allowed in any case."""
    not_finite: float = 0.0
    """Share of predictions that are NaN or infinite."""
    psi: float = 0.2
    """Population Stability Index of the score distributions, in nats, above what chance gives."""


@dataclass(frozen=True)
class Comparison:
    """One figure of both, and whether the canary's is held against it."""

    name: str
    champion: float
    canary: float
    limit: float
    """What the canary's may be at most, before chance is allowed for."""
    is_worse: bool

    def __str__(self) -> str:
        return f"{self.name} {self.canary:.4g} (champion {self.champion:.4g}, allowed {self.limit:.4g})"


def compare(champion: Figures, canary: Figures, limits: Limits) -> list[Comparison]:
    """All comparisons of the two, those that are held against the canary among them."""
    requests = (champion.requests, canary.requests)
    return [
        _more("error rate", (champion.errors, canary.errors), requests, limits.errors),
        _more("refusals", (champion.refusals, canary.refusals), requests, limits.refusals),
        _more("share of NaN", (champion.not_finite, canary.not_finite), (_n(champion), _n(canary)), limits.not_finite),
        _p99(champion, canary, limits),
        _psi(champion.scores, canary.scores, limits),
    ]


def wilson(successes: float, n: float) -> tuple[float, float]:
    """The interval of a share, at `Z`; 0 to 1 without observations.

    Source: Wilson, Journal of the American Statistical Association 22 (1927).
    """
    if n <= 0:
        return 0.0, 1.0
    share, z2 = successes / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, middle - half) if successes else 0.0, min(1.0, middle + half)


def psi(reference: Counts, current: Counts) -> float:
    """Population Stability Index of two counts (n_bins,), in nats; 0 when they fall alike, or one is empty.

    Bins that are empty count as half an observation. Source: Siddiqi, Credit Risk Scorecards (2006).
    """
    if not reference.sum() or not current.sum():
        return 0.0
    used = (reference + current) > 0
    p, q = (np.maximum(counts[used], 0.5) / np.maximum(counts[used], 0.5).sum() for counts in (reference, current))
    return float(((p - q) * np.log(p / q)).sum())


def psi_by_chance(reference: Counts, current: Counts) -> float:
    """What the index of two samples of one distribution hardly ever exceeds, in nats.

    It is distributed as (1/n + 1/m) times chi-squared with n_bins - 1 degrees of freedom (Yurdakul, Statistical
    Properties of Population Stability Index, 2018), whose quantile is Wilson and Hilferty's.
    """
    n, m = reference.sum(), current.sum()
    degrees = np.count_nonzero(reference + current) - 1
    if not n or not m or degrees < 1:
        return 0.0
    spread = 2 / (9 * degrees)
    return float((1 / n + 1 / m) * degrees * (1 - spread + Z * math.sqrt(spread)) ** 3)


def _more(name: str, parts: tuple[float, float], wholes: tuple[float, float], more: float) -> Comparison:
    """Two shares, each of the champion and the canary; worse where the canary's is surely larger by more than that."""
    champion, canary = (part / whole if whole else 0.0 for part, whole in zip(parts, wholes, strict=True))
    most = wilson(parts[0], wholes[0])[1] if wholes[0] else 0.0
    is_worse = wilson(parts[1], wholes[1])[0] > max(most, champion + more)
    return Comparison(name, champion, canary, champion + more, is_worse)


def _n(figures: Figures) -> float:
    return float(figures.scores.sum()) + figures.not_finite


def _p99(champion: Figures, canary: Figures, limits: Limits) -> Comparison:
    """Worse where surely more than 1 % of the canary's answers took longer than its p99 may be."""
    reference = champion.p99_s()
    limit = max(limits.p99_ratio * reference, reference + limits.p99_s)
    answers = canary.latencies.sum()
    is_worse = math.isfinite(limit) and wilson(canary.slower_than(limit), answers)[0] > 0.01
    return Comparison("p99 latency, s", reference, canary.p99_s(), limit, is_worse)


def _psi(reference: Counts, current: Counts, limits: Limits) -> Comparison:
    index = psi(reference, current)
    return Comparison(
        "PSI of the scores", 0.0, index, limits.psi, index > limits.psi + psi_by_chance(reference, current)
    )
