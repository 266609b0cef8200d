"""What the study of devices found, as README shows it: a table, sentences that follow from its figures, a picture."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from load_tests.report import canvas
from load_tests.report.plot import curve
from load_tests.report.words import exactly, listed, number
from load_tests.studies.device_engines import BY_HAND, BY_HAND_WITH_COPIES

CPU, GPU = "cpu", "cuda:0"
NO_GPU = "no CUDA device: not measured"
PICTURE = "load_tests/results/devices.png"
ALT = "Rows/s and p99 of each engine by batch size, and p99 of what is served against the predictions/s offered"
LIBRARIES = ("onnxruntime", "torch")
TEACHER, PUPIL = "transformer", "distil"
GOAL = 0.8
"""Least rows/s of the torch engine, over those of its network in a CUDA graph replayed by hand."""

Result = Mapping[str, Any]
Points = list[tuple[float, float | None]]


def markdown(result: Result) -> str:
    """The README's section."""
    paragraphs = [table(result), caption(result), distilled(result), served(result), on_gpu(result)]
    return "\n\n".join([*filter(None, paragraphs), f"![{ALT}]({PICTURE})"]) + "\n"


def table(result: Result) -> str:
    """One engine of a family a line."""
    least, *_, most = sizes = [str(size) for size in result["settings"]["sizes"]]
    heads = " | ".join(f"rows/s at {exactly(int(size))}" for size in sizes)
    lines = [
        f"| family | engine | p50 / p99 ms at {least} | {heads} | p99 ms at {exactly(int(most))} |",
        "|---|---|---|" + "---|" * (len(sizes) + 1),
    ]
    for family, engine, figures in _engines(result):
        cells = [
            family,
            engine,
            f"{number(median(figures[least]['p50_ms']))} / {number(figures[least]['p99_ms'])}",
            *(number(median(figures[size]["rows_per_s"])) for size in sizes),
            number(figures[most]["p99_ms"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def caption(result: Result) -> str:
    """What the table is, and where and when it was measured."""
    apart = [
        (max(rates) - min(rates)) / median(rates)
        for _, _, figures in _engines(result)
        for rates in [each["rows_per_s"] for each in figures.values()]
    ]
    commit, _, dirt = result["commit"].partition("-")
    gpu = result["devices"][GPU]
    named = gpu if gpu == NO_GPU else f"{GPU}: {gpu['name']}, driver {gpu['driver']}"
    return (
        f"Engines in process, one thread; medians of {result['settings']['rounds']} rounds in which all took turns, "
        f"least and most {median(apart):.0%} apart in half of the cells and {max(apart):.0%} at most; p99 is over all "
        f"calls. {CPU}: {result['devices'][CPU]['name']}, {result['cores']} cores; {named}. {result['at'][:10]}, "
        f"commit {commit[:7]}{f' ({dirt})' if dirt else ''}, "
        f"{listed({name: result['versions'][name] for name in LIBRARIES})}."
    )


def distilled(result: Result) -> str:
    """How much quicker than its teacher the small network is, on the CPU."""
    engines = result["engines"]
    if not {TEACHER, PUPIL} <= engines.keys():
        return ""
    of_teacher, of_pupil = (next(iter(engines[family].values())) for family in (TEACHER, PUPIL))
    shares = [
        f"{number(_ratio(of_pupil[size], of_teacher[size], 'p50_ms'))} at {exactly(int(size))}" for size in of_teacher
    ]
    return f"On the CPU, `{PUPIL}` takes so much of the time of `{TEACHER}`, its teacher (p50): {', '.join(shares)}."


def served(result: Result) -> str:
    """The most predictions a second that were answered in time."""
    told = []
    for run in result["served"]:
        best = max(run["stages"], key=lambda stage: float(stage["goodput_rows_per_s"]))
        at_least = "at least " if best["generator_fault"] else ""
        most = f"{at_least}{number(best['goodput_rows_per_s'])}"
        told.append(f"`{run['family']}` on {run['device']}, {exactly(run['rows'])} in a body: {most}")
    return f"Served, most predictions/s answered within {result['settings']['p99_ms']:g} ms: {'; '.join(told)}."


def on_gpu(result: Result) -> str:
    """The torch engine beside a graph replayed by hand; without a GPU, what is not proven."""
    if result["devices"][GPU] == NO_GPU:
        return (
            f"On a GPU: {NO_GPU}. So it remains unproven how quick the engine is there, alone (the goal is {GOAL:g} of "
            "a CUDA graph of the same network that is replayed by hand) and served; that CUDA graphs, pinned memory "
            "and copies beside computing work on a real device; and what ONNX Runtime's GPU providers do. The rest of "
            "the GPU engine is tested on the CPU, with failures of the device injected."
        )
    sizes = " / ".join(exactly(size) for size in result["settings"]["sizes"])
    told = [
        f"`{family}` {_ratios(figures, result['engines'][family][BY_HAND])} "
        f"({_ratios(figures, result['engines'][family][BY_HAND_WITH_COPIES])})"
        for family, engine, figures in _engines(result)
        if engine.startswith(f"torch {GPU}")
    ]
    beside = (
        f"On {GPU}, rows/s of the torch engine, which copies rows in and answers out, over those of a CUDA graph of "
        "the same network that is replayed by hand on rows that lie there already (in brackets: one that copies as "
        f"well), in batches of {sizes}: {'; '.join(told)}. The goal is {GOAL:g}."
    )
    left_out = [f"{why} ({', '.join(families)})" for why, families in result["left_out"].items()]
    return " ".join([*([beside] if told else []), *([f"Left out: {'; '.join(left_out)}."] if left_out else [])])


def picture(result: Result) -> bytes:
    """A PNG: rows/s and p99 by batch size, and p99 against offered load."""
    rates, slowest = (
        {
            f"{family}, {_short(engine)}": [(float(size), value) for size in figures for value in values(figures[size])]
            for family, engine, figures in _engines(result)
            if not engine.startswith(BY_HAND)
        }
        for values in (lambda timed: timed["rows_per_s"], lambda timed: [timed["p99_ms"]])
    )
    loaded = {
        f"{run['family']}, {run['device']}, {exactly(run['rows'])} a body": [
            (stage["offered_rows_per_s"], stage["p99_ms"]) for stage in run["stages"] if not stage["generator_fault"]
        ]
        for run in result["served"]
    }
    panels = [
        _panel("rows/s", "rows in a batch", rates, legend=False),  # the next one's is its own
        _panel("p99, ms", "rows in a batch", slowest),
        _panel("p99, ms", "offered load, predictions/s", loaded),
    ]
    return canvas.png(panels, "Engines by batch size, and served under load")


def _engines(result: Result) -> list[tuple[str, str, Any]]:
    """Family, engine, and figures by batch size."""
    return [(family, *each) for family, engines in result["engines"].items() for each in engines.items()]


def _ratios(figures: Any, others: Any) -> str:
    return " / ".join(f"{_ratio(figures[size], others[size], 'rows_per_s'):.2f}" for size in figures)


def _ratio(figures: Any, others: Any, of: str) -> float:
    """The median of the rounds' ratios."""
    return float(np.median(np.divide(figures[of], others[of])))


def _panel(unit: str, across: str, points: Mapping[str, Points], *, legend: bool = True) -> canvas.Draw:
    """Both axes logarithmic, the legend within: there are several panels in a row."""
    curves = [found for name, pairs in points.items() if (found := curve(name, pairs))]

    def draw(axes: Axes) -> None:
        for place, each in enumerate(curves):
            each.draw(axes, place)
        axes.set(xscale="log", yscale="log", xlabel=across, ylabel=unit)
        for axis in (axes.xaxis, axes.yaxis):
            canvas.plain_numbers(axis)
        axes.xaxis.set_major_locator(LogLocator())
        axes.tick_params(axis="x", rotation=30)
        if legend:
            axes.margins(y=0.3)
            axes.legend(loc="upper left", fontsize=6.5)

    return draw


def _short(engine: str) -> str:
    return engine.removeprefix("onnxruntime ").replace("ExecutionProvider", "")
