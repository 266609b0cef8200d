"""What plots are drawn on: colours that everybody can tell apart, the size, and the same bytes every time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from io import BytesIO
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from PIL import Image

from load_tests.report.words import exactly

BLUE, VERMILION, GREEN, PURPLE = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
"""Of Okabe and Ito's palette (Color Universal Design, 2008), those that stand out from white; and, with the lighter
blue that the page has when it is dark, from black."""

INK, GRID = "#1a1b1c", "#d2d3d4"

COLOURS = (BLUE, VERMILION, GREEN, PURPLE, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", "-.", ":")

INLINE_INCHES, PNG_INCHES = (5.6, 3.6), (8.0, 4.5)
PNG_DPI = 110
PNG_COLOURS = 64
"""Enough for smooth edges, in a third of the bytes."""

_OF_PAGE = {INK: "currentColor", GRID: "var(--grid)", BLUE: "var(--blue)"}
"""What in SVG is the page's own, light or dark."""

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": INK,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "load_tests",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "ytick.color": INK,
}

Draw = Callable[[Axes], object]


def svg(draw: Draw, name: str) -> str:
    """An `svg` element to stand within a page; its ids begin with `name`, its ink, grid and blue are the page's.

    Its text stays text, and nothing in it says when it was drawn.
    """
    with rc_context(_STYLE):
        figure = Figure(figsize=INLINE_INCHES, layout="constrained")
        draw(figure.add_subplot())
        told = BytesIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(told, format="svg", transparent=True, metadata=nothing)
    return _inline(told.getvalue().decode(), name)


def png(draws: Sequence[Draw], title: str) -> bytes:
    """One picture with a panel for each of `draws`, 880 by 495 pixels, on white."""
    with rc_context(_STYLE):
        figure = Figure(figsize=PNG_INCHES, layout="constrained", facecolor="white")
        figure.suptitle(title)
        for place, draw in enumerate(draws, 1):
            draw(figure.add_subplot(1, len(draws), place))
        told = BytesIO()
        figure.savefig(told, format="png", dpi=PNG_DPI)
    small = BytesIO()
    Image.open(told).convert("RGB").quantize(PNG_COLOURS).save(small, format="png", optimize=True)
    return small.getvalue()


def looks(place: int) -> dict[str, Any]:
    """Colour, marker and kind of line of the curve at this place: told apart without colour, too."""
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[place % len(MARKERS)],
        "linestyle": DASHES[place % len(DASHES)],
    }


def legend_above(axes: Axes) -> None:
    """The legend, where no curve can hide it."""
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2, handlelength=2.4)


def plain_numbers(axis: Axis) -> None:
    """Figures at the ticks as people write them, without powers of ten."""
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
        axis.set_minor_formatter(NullFormatter())
    axis.set_major_formatter(FuncFormatter(lambda value, _: exactly(value)))


def _inline(document: str, name: str) -> str:
    element = re.sub(r"\s*<metadata>.*?</metadata>", "", document[document.index("<svg") :], flags=re.DOTALL)
    element = re.sub(r' xmlns(:\w+)?="[^"]*"', "", element).replace("xlink:href", "href")
    element = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{name}-", element)
    for colour, of_page in _OF_PAGE.items():
        element = element.replace(colour, of_page)
    return element
