"""Tables as a page and a terminal show them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from load_tests.comparison import FIGURES, Comparison
from load_tests.objective import Objective
from load_tests.report.words import NONE, exactly, number, percent
from load_tests.result import Fit, Repeat, Result
from load_tests.stage import Stage
from load_tests.verdict import TWICE, Spread, degradation, generator_fault, median_repeat, sent_share, spread

Column = Callable[[Stage], str]


@dataclass(frozen=True)
class Table:
    """Cells in words; the first of a row names it."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    texts: Sequence[int] = ()
    """Places of the columns that hold sentences."""


def latency(field: str) -> Column:
    """A column: of right answers, in milliseconds."""
    return lambda stage: number(getattr(stage.latency, field, None))


COLUMNS: dict[str, Column] = {
    "offered/s": lambda stage: exactly(stage.rate),
    "achieved/s": lambda stage: number(stage.achieved_rate),
    "throughput/s": lambda stage: number(stage.throughput),
    "goodput/s": lambda stage: number(stage.goodput),
    "predictions/s in it": lambda stage: number(stage.goodput_rows),
    "p50 ms": latency("p50_ms"),
    "p95 ms": latency("p95_ms"),
    "p99 ms": latency("p99_ms"),
    "p99.9 ms": latency("p999_ms"),
    "max ms": latency("max_ms"),
    "errors": lambda stage: percent(stage.errors),
    "due": lambda stage: exactly(stage.due),
    "right": lambda stage: exactly(stage.right),
    "refused": lambda stage: exactly(stage.refused),
    "failed": lambda stage: exactly(stage.failed),
    "wrong": lambda stage: exactly(stage.wrong),
    "unsent": lambda stage: exactly(stage.unsent),
    "queue ms": lambda stage: number(stage.server_side.queue_ms),
    "compute ms": lambda stage: number(stage.server_side.compute_ms),
    "rows a batch": lambda stage: number(stage.server_side.batch_rows),
    "server cores": lambda stage: number(stage.usage.server),
    "server busiest": lambda stage: number(stage.usage.busiest_server_process),
    "generator busiest": lambda stage: number(stage.usage.busiest_generator),
    "late p99 ms": lambda stage: number(stage.late_p99_ms),
    "server MB": lambda stage: number(stage.usage.memory_mb),
}


SHORT = (
    "offered/s",
    "goodput/s",
    "p50 ms",
    "p99 ms",
    "p99.9 ms",
    "errors",
    "server busiest",
    "generator busiest",
)
"""Of `COLUMNS`, those for which a terminal has room."""


def stages(result: Result) -> Table:
    """A row for each stage, with what the objective says of it."""
    rows = [
        [str(n), *cells(stage, result.objective, COLUMNS)]
        for n, repeat in enumerate(result.repeats, 1)
        for stage in in_order(repeat, result)
    ]
    return Table("Stages of each repeat", ["repeat", *COLUMNS, "objective"], rows)


def stages_in_short(result: Result) -> Table:
    """Some columns, of the repeat that the sentence is about."""
    median = [median_repeat(result.repeats)] if result.repeats else []
    rows = [cells(stage, result.objective, SHORT) for repeat in median for stage in in_order(repeat, result)]
    return Table("Stages", [*SHORT, "objective"], rows)


def in_order(repeat: Repeat, result: Result) -> list[Stage]:
    """The stages of a ramp by offered load, others as they came."""
    return sorted(repeat.stages, key=lambda stage: stage.rate) if result.options.shape == "ramp" else repeat.stages


def cells(stage: Stage, objective: Objective, columns: Iterable[str]) -> list[str]:
    """Of a row."""
    return [*(COLUMNS[name](stage) for name in columns), outcome(stage, objective)]


def outcome(stage: Stage, objective: Objective) -> str:
    """Whether the service kept to the objective; where it did not, and the generator may have been why, that."""
    if stage.meets(objective):
        return "met"
    return "generator" if generator_fault(stage, objective) else "missed"


def repeats(result: Result) -> Table:
    """A row for each repeat: its capacity, and what ended it."""
    rows = [
        [
            str(n),
            exactly(repeat.sustained_rate),
            exactly(repeat.tipping_rate),
            percent(degradation(repeat, result.objective, TWICE)),
            percent(sent_share(repeat, result.objective, TWICE)),
            repeat.limit,
            repeat.why,
        ]
        for n, repeat in enumerate(result.repeats, 1)
    ]
    at_twice = ["goodput at twice that, of its peak", "requests that went out then"]
    heads = ["repeat", "sustains, requests/s", "tips over at", *at_twice, "limit", "because"]
    return Table("What each repeat says", heads, rows, texts=[6])


def fits(result: Result) -> Table:
    """A row for each model: the tipping point that it predicts, beside the measured one."""
    measured = spread(repeat.tipping_rate for repeat in result.repeats)
    tipping = measured.median if measured else None
    heads = ["model", "predicts, requests/s", "measured", "off by", "error of its p99"]
    rows = [
        [fit.name, number(fit.predicted_rate), number(tipping), off_by(fit, tipping), percent(fit.error)]
        for fit in result.fits
    ]
    return Table("Predicted beside measured tipping point", heads, rows)


def off_by(fit: Fit, tipping: float | None) -> str:
    """Predicted over measured tipping point, less one."""
    if fit.predicted_rate is None or tipping is None:
        return NONE
    return f"{100 * (fit.predicted_rate / tipping - 1):+.0f} %"


def overlays(comparison: Comparison) -> Table:
    """A row for each figure, a column for each result."""
    rows = [
        [words, *(between(overlay.figures[figure]) for overlay in comparison.overlays)]
        for figure, words in FIGURES.items()
    ]
    for rate in comparison.overlays[0].p99_ms:
        p99s = [between(overlay.p99_ms.get(rate)) for overlay in comparison.overlays]
        rows.append([f"p99 ms at {exactly(rate)} requests/s", *p99s])
    caption = "Medians over the repeats, from the least to the most in brackets"
    return Table(caption, ["figure", *(overlay.name for overlay in comparison.overlays)], rows)


def between(seen: Spread | None) -> str:
    """`1 020 (990 to 1 030)`."""
    if seen is None:
        return NONE
    return number(seen.median) + (f" ({number(seen.least)} to {number(seen.most)})" if seen.n > 1 else "")
