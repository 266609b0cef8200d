"""Every figure of every stage, and of a comparison, as CSV: not rounded, in the units that the names say."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from io import StringIO
from typing import Any

import msgspec

from load_tests.comparison import Comparison, Difference
from load_tests.result import Result
from load_tests.stage import Stage
from load_tests.verdict import number


def stages(result: Result) -> str:
    """A line for each stage, in the order in which they ran; nested fields have their path as name.

    What a stage has no figure for is empty; a column that would be empty throughout is left out.
    """
    lines = [
        {"repeat": n, "stage": place, **line(stage)}
        for n, repeat in enumerate(result.repeats, 1)
        for place, stage in enumerate(repeat.stages, 1)
    ]
    return written(lines)


def comparison(compared: Comparison) -> str:
    """A line for each figure of each result; its ratio to the first result's is empty there."""
    ratios = {(each.name, each.figure): each for each in compared.differences}
    lines = []
    for overlay in compared.overlays:
        figures = overlay.figures | {f"p99_ms at {number(rate)}": seen for rate, seen in overlay.p99_ms.items()}
        for figure, seen in figures.items():
            difference = ratios.get((overlay.name, figure))
            lines.append(
                {"result": overlay.name, "figure": figure}
                | (flat(msgspec.to_builtins(seen)) if seen else {})
                | (ratio(difference) if difference else {})
            )
    return written(lines)


def ratio(difference: Difference) -> dict[str, Any]:
    """To the first result."""
    return {
        "ratio": difference.ratio,
        "ratio_least": difference.least,
        "ratio_most": difference.most,
        "is_beyond_spread": difference.is_beyond_spread,
    }


def line(stage: Stage) -> dict[str, Any]:
    """All fields, and what follows from them."""
    derived = ("goodput", "goodput_rows", "throughput", "achieved_rate", "errors")
    return flat(msgspec.to_builtins(stage)) | {name: getattr(stage, name) for name in derived}


def flat(values: dict[str, Any], within: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}, "c": None}` as `{"a.b": 1}`."""
    told: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            told |= flat(value, f"{within}{name}.")
        elif value is not None:
            told[within + name] = value
    return told


def written(lines: Sequence[dict[str, Any]]) -> str:
    """CSV with a header of all names, in the order in which they first occur."""
    names = list(dict.fromkeys(name for each in lines for name in each))
    text = StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
