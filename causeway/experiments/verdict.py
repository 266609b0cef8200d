"""What may be concluded from an experiment, in one sentence. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from causeway.experiments.measure import Interval, Measure, SampleRatio
from causeway.experiments.period import Period

NEGLIGIBLE = 0.1
"""A difference that is surely smaller than this share of the champion's mean is called none."""


@dataclass(frozen=True)
class Words:
    """How a verdict speaks of labels, or of scores."""

    name: str
    mean: str
    higher: str
    lower: str
    scale: float
    """What numbers are multiplied with."""
    of_a_mean: str
    """What follows a mean, and a difference of means:"""
    of_a_difference: str

    def told(self, interval: Interval, unit: str) -> str:
        """An estimate with its bounds."""
        low, value, high = (f"{self.scale * x:.3g}" for x in (interval.low, interval.value, interval.high))
        return f"{value}{unit} ({low} to {high})"

    def span(self, low: float, high: float) -> str:
        """Differences between two bounds."""
        return f"{self.scale * low:.3g} to {self.scale * high:.3g}{self.of_a_difference}"


LABELS = Words("labels", "conversions", "more conversions", "fewer conversions", 100, " %", " points")
SCORES = Words("scores", "the mean score", "a higher mean score", "a lower mean score", 1, "", "")


def verdict(period: Period, scores: Measure, labels: Measure) -> str:
    """What may be said, in one sentence."""
    if scores.ratio.is_off:
        has = _told(scores.ratio)
        return f"Conclude nothing: the {period.role} {period.variant} has {has} of the units, which is not by chance."
    told = f"{_clause(labels, LABELS)}; {_clause(scores, SCORES)}"
    return f"{period.role.capitalize()} {period.variant} beside champion {period.champion}: {told}."


def _clause(measure: Measure, words: Words) -> str:
    if not measure.is_bounded:
        return f"{words.name} are compared between 0 and 1 only"
    if measure.ratio.is_off:
        return f"nothing to conclude from {words.name}, of which it has {_told(measure.ratio)}"
    if measure.means is None or measure.difference is None:
        return f"no {words.name} of both yet"
    low, high = measure.difference.low, measure.difference.high
    champion, variant = (f"{words.scale * mean.value:.3g}{words.of_a_mean}" for mean in measure.means)
    if low > 0:
        return f"{words.higher}, {variant} against {champion}, by {words.span(low, high)}"
    if high < 0:
        return f"{words.lower}, {variant} against {champion}, by {words.span(-high, -low)}"
    most = max(-low, high)
    if most <= NEGLIGIBLE * measure.means[0].value:
        return f"no difference in {words.mean} larger than {words.scale * most:.3g}{words.of_a_difference}"
    return f"too early to tell about {words.mean}, which may differ by {words.span(low, high)}"


def percent(share: float | None) -> str:
    """A share as people read it."""
    return "none" if share is None else f"{100 * share:.2f} %"


def _told(ratio: SampleRatio) -> str:
    return f"{percent(ratio.observed)} instead of {percent(ratio.expected)}"
