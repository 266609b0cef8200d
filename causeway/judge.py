"""Whether a canary is worse than the champion, from the figures of both. Pure.

Every comparison allows for chance, in the canary's figures and in the champion's: what is held against the canary would
hardly ever be seen if it were no worse. So a rollout without a difference goes back rarely, however often one looks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from causeway.drift.statistics import psi
from causeway.figures import Counts, Figures

Z = 4.0
"""Standard normal quantile of what chance may give: of 30 000 comparisons without a difference, about one errs."""

Observed = tuple[float, float]
"""How many there were, and of how many."""


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
    psi: float = 0.25
    """Population Stability Index of the score distributions, in nats, above what chance gives."""
    min_scores: int = 100
    """Predictions of each from which on these distributions are compared: before, one row asked often is all of it."""


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
    n, m = champion.requests, canary.requests
    return [
        _more("error rate", (champion.errors, n), (canary.errors, m), limits.errors),
        _more("refusals", (champion.refusals, n), (canary.refusals, m), limits.refusals),
        _more("share of NaN", _not_finite(champion), _not_finite(canary), limits.not_finite),
        _p99(champion, canary, limits),
        _psi(champion.scores, canary.scores, limits),
    ]


def is_surely_more(champion: Observed, canary: Observed, more: float = 0.0, least: float = 0.0) -> bool:
    """Whether the canary's share is above the champion's by more than `more`, and above `least`, beyond chance.

    A likelihood ratio test at `Z` (Wilks, Annals of Mathematical Statistics 9, 1938): whatever the champion's true
    share is, the two would hardly ever be seen with a canary's that is within the limit. Unlike an interval by the
    normal distribution it holds for rare events: one error among the canary's first ten answers is no proof. A champion
    without observations counts as one with a share of 0.
    """
    (n_champion, of_champion), (n_canary, of_canary) = champion, canary
    low = n_champion / of_champion if of_champion else 0.0
    high = n_canary / of_canary if of_canary else 0.0
    if high <= max(low + more, least):
        return False

    def deviance(share: float) -> float:
        return _deviance(n_champion, of_champion, share) + _deviance(n_canary, of_canary, max(share + more, least))

    if not of_champion:
        return deviance(0.0) > Z * Z
    high -= more  # beyond it, both are ever less likely
    for _ in range(60):  # it is convex: the least of it, by thirds
        third = (high - low) / 3
        low, high = (low, high - third) if deviance(low + third) < deviance(high - third) else (low + third, high)
    return deviance((low + high) / 2) > Z * Z


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


def _more(name: str, champion: Observed, canary: Observed, more: float) -> Comparison:
    """Two shares; worse where the canary's is surely larger by more than that."""
    reference, seen = (part / whole if whole else 0.0 for part, whole in (champion, canary))
    return Comparison(name, reference, seen, reference + more, is_surely_more(champion, canary, more))


def _deviance(successes: float, n: float, share: float) -> float:
    """Twice the logarithm of how much likelier the observations are with the share that was seen than with this one."""
    return 2 * sum(
        count * math.log(count / (n * expected)) if expected else math.inf
        for count, expected in ((successes, share), (n - successes, 1 - share))
        if count
    )


def _not_finite(figures: Figures) -> Observed:
    return figures.not_finite, float(figures.scores.sum()) + figures.not_finite


def _p99(champion: Figures, canary: Figures, limits: Limits) -> Comparison:
    """Worse where surely more than 1 %, and more than of the champion's, took longer than the p99 may be."""
    reference = champion.p99_s()
    limit = max(limits.p99_ratio * reference, reference + limits.p99_s)
    slower, beside = ((figures.slower_than(limit), float(figures.latencies.sum())) for figures in (canary, champion))
    is_worse = is_surely_more(beside, slower, least=0.01)
    return Comparison("p99 latency, s", reference, canary.p99_s(), limit, is_worse)


def _psi(reference: Counts, current: Counts, limits: Limits) -> Comparison:
    fewest = min(reference.sum(), current.sum())
    index = float(psi(reference, current)) if fewest else 0.0
    is_enough = bool(fewest >= limits.min_scores)
    is_worse = is_enough and index > limits.psi + psi_by_chance(reference, current)
    return Comparison("PSI of the scores", 0.0, index, limits.psi, is_worse)
