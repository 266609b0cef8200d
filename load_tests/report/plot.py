"""A plot of a page: its curves and marks, and its words for those who see it and those who do not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from load_tests.report import canvas
from load_tests.report.words import number
from load_tests.verdict import Spread, spread

OFFERED = "offered load, requests/s"

WIDE = 10.0
"""Rates that span more than this factor are drawn on a logarithmic axis."""

FEW = 40
"""Points of a curve that get a marker each."""


@dataclass(frozen=True)
class Curve:
    """A figure over the offered load, or over time."""

    label: str
    points: dict[float, Spread]
    """Ascending: median, least and most of what was seen there; never empty."""

    def draw(self, axes: Axes, place: int) -> None:
        """The medians as a curve, from least to most as bars; with the looks of its place."""
        seen = list(self.points.values())
        medians = [each.median for each in seen]
        bars = [[each.median - each.least for each in seen], [each.most - each.median for each in seen]]
        looks = canvas.looks(place) | ({} if len(seen) <= FEW else {"marker": ""})
        axes.plot(list(self.points), medians, label=self.label, **looks)
        if any(bars[0] + bars[1]):
            axes.errorbar(list(self.points), medians, bars, fmt="none", ecolor=looks["color"], elinewidth=1, capsize=2)

    def __str__(self) -> str:
        medians = [seen.median for seen in self.points.values()]
        return f"{self.label}: from {number(medians[0])} to {number(medians[-1])}"


def curve(label: str, pairs: Iterable[tuple[float, float | None]]) -> Curve | None:
    """Of places and figures; those at one place make one point. None where there is no figure."""
    at: dict[float, list[float | None]] = {}
    for place, value in sorted(pairs, key=lambda pair: pair[0]):
        at.setdefault(place, []).append(value)
    points = {place: seen for place, values in at.items() if (seen := spread(values))}
    return Curve(label, points) if points else None


@dataclass(frozen=True)
class Plot:
    """One figure of a page."""

    name: str
    """Unique on its page."""
    title: str
    says: str
    """What is to be seen, in a sentence or two."""
    unit: str
    """Label of the vertical axis."""
    curves: Sequence[Curve]
    marks: Sequence[canvas.Draw] = ()
    """What is drawn besides, and how the axes are scaled."""
    across: str = OFFERED
    """Label of the horizontal axis."""

    def draw(self, axes: Axes) -> None:
        """Everything, with labels and a legend."""
        for place, each in enumerate(self.curves):
            each.draw(axes, place)
        if self.across == OFFERED and self._spans > WIDE:
            axes.set_xscale("log")
        for mark in self.marks:
            mark(axes)
        axes.set_xlabel(self.across)
        axes.set_ylabel(self.unit)
        canvas.plain_numbers(axes.xaxis)
        canvas.plain_numbers(axes.yaxis)
        canvas.legend_above(axes)

    @property
    def _spans(self) -> float:
        places = [place for each in self.curves for place in each.points]
        return max(places) / min(places)

    @property
    def alt(self) -> str:
        """Its title, and where each curve begins and ends."""
        return f"{self.title}, over {self.across}. {'; '.join(map(str, self.curves))}."

    @property
    def svg(self) -> str:
        """The element for the page; the texts in it are escaped."""
        return canvas.svg(self.draw, self.name)


def logarithmic(axes: Axes) -> None:
    """A mark: the vertical axis."""
    axes.set_yscale("log")


def level(value: float, label: str) -> canvas.Draw:
    """A mark: a horizontal line."""
    return lambda axes: axes.axhline(value, color=canvas.INK, linewidth=1, linestyle=(0, (6, 3)), label=label)
