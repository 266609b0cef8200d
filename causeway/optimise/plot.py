"""What each variant loses, and what it gains, in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.figure import Figure

from causeway.optimise.gate import Limits
from causeway.optimise.study import PARENT, Judged

INK = "#1a1b1c"

COLOURS = ("#1a1b1c", "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
"""Okabe and Ito's palette (Color Universal Design, 2008); with markers, variants are told apart without colour too."""


def plot(path: Path, parent: str, judged: Sequence[Judged]) -> None:
    """Writes a PNG: the average precision that each variant loses, over p50 of one row and over rows/s of many.

    Those that are refused are hollow; those that could not be made are not there. A line marks the most that may be
    lost.
    """
    found = [(each, each.figures, each.figures.quality.average_precision or 0.0) for each in judged if each.figures]
    of_parent = next(precision for each, _, precision in found if each.name == PARENT)
    figure = Figure(figsize=(9, 4), dpi=110, layout="constrained")
    figure.suptitle(f"Variants of {parent}; hollow: refused", parse_math=False)
    of_one, of_many = figure.subplots(1, 2, sharey=True)
    looks = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    for (each, figures, precision), (colour, marker) in zip(found, looks, strict=False):
        one, *_, many = figures.speeds
        for axes, x in ((of_one, one.p50_ms), (of_many, many.rows_per_second / 1000)):
            filled = "none" if each.reasons else colour
            axes.plot(x, of_parent - precision, marker, color=colour, markerfacecolor=filled, label=each.name)
    of_one.set(ylabel="average precision lost", xlabel="p50 of one row, ms")
    of_many.set(xlabel=f"thousand rows/s in batches of {many.batch}")
    for axes in (of_one, of_many):
        axes.axhline(Limits.average_precision, color=INK, linewidth=0.6, linestyle="--")
        axes.margins(0.15)
    of_many.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    figure.savefig(path)
