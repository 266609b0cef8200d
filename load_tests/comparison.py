"""Several load tests side by side: their figures, and how far each is from the first beside what repeats differ by."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from load_tests.objective import Objective
from load_tests.result import Repeat, Result
from load_tests.verdict import TWICE, Spread, at_rate, by_rate, degradation, generator_fault, number, spread

FIGURES = {
    "sustained_rate": "sustained requests/s",
    "tipping_rate": "tips over at requests/s",
    "peak_goodput": "peak goodput, answers/s",
    "goodput_at_twice": "goodput at twice the tipping rate, of the peak",
    "cpu_us": "server CPU µs an answer at the sustained rate",
}
"""What is compared, in words."""

CONDITIONS: dict[str, Callable[[Result], str]] = {
    "cpu differs": lambda result: str(result.circumstances.get("cpu")),
    "cores differ": lambda result: str(result.circumstances.get("cores")),
    "objective differs": lambda result: str(result.objective),
    "users' mix differs": lambda result: _words(result.options.mix),
    "rows differ": lambda result: _words(result.options.rows),
    "arrivals differ": lambda result: result.options.arrivals,
    "deadline differs": lambda result: _deadline(result.options.deadline_ms),
    "stage length differs": lambda result: f"{result.options.stage_s:g} s",
}
"""What figures depend on besides what is compared."""


class Overlay(msgspec.Struct, frozen=True):
    """The figures of one result over its repeats."""

    name: str
    figures: dict[str, Spread | None]
    """By the keys of `FIGURES`; None where it is unknown, as all are where the generator was the limit."""
    p99_ms: dict[float, Spread]
    """By requests a second: rates of the first result at which all met the objective."""


class Difference(msgspec.Struct, frozen=True):
    """One figure of a result over the first's."""

    name: str
    """Of the result."""
    figure: str
    """A key of `FIGURES`, or `p99_ms at 1 000`."""
    ratio: float
    """Of the medians."""
    least: float
    most: float
    """Of any repeat over any of the first's."""
    is_beyond_spread: bool | None
    """Whether all repeats are on one side of all of the first's; None where either has one repeat."""
    says: str


class Comparison(msgspec.Struct, frozen=True):
    """What `compare` finds."""

    overlays: list[Overlay]
    differences: list[Difference]
    """Each result against the first."""
    warnings: list[str]
    """Why figures are not comparable, or are not there."""


def compare(results: Sequence[Result]) -> Comparison:
    """The results' figures and their differences against the first. Raises `ValueError` with fewer than two."""
    if len(results) < 2:
        raise ValueError("a comparison needs two results or more")
    rates = _common_rates(results)
    first, *others = overlays = [_overlay(result, rates) for result in results]
    return Comparison(
        overlays,
        [difference for other in others for difference in _differences(first, other)],
        [*_warnings(results)],
    )


def _overlay(result: Result, rates: Sequence[float]) -> Overlay:
    repeats = [] if result.is_generator_limited else result.repeats
    curves = [_p99_ms(repeat, result.objective) for repeat in result.repeats]
    found = {rate: spread(at_rate(curve, rate) for curve in curves) for rate in rates}
    return Overlay(
        result.name,
        {name: spread(_figures(repeat, result.objective)[name] for repeat in repeats) for name in FIGURES},
        {rate: values for rate, values in found.items() if values},
    )


def _figures(repeat: Repeat, objective: Objective) -> dict[str, float | None]:
    return {
        "sustained_rate": repeat.sustained_rate,
        "tipping_rate": repeat.tipping_rate,
        "peak_goodput": max((stage.goodput for stage in repeat.stages), default=None),
        "goodput_at_twice": degradation(repeat, objective, TWICE),
        "cpu_us": _cpu_us(repeat),
    }


def _cpu_us(repeat: Repeat) -> float | None:
    """Of the server for an answer, at the sustained rate."""
    return next(
        (
            1e6 * stage.usage.server / stage.throughput
            for stage in reversed(repeat.stages)
            if stage.rate == repeat.sustained_rate and stage.usage.server is not None and stage.throughput
        ),
        None,
    )


def _p99_ms(repeat: Repeat, objective: Objective) -> dict[float, float]:
    """By rate, of the stages that met the objective."""
    return by_rate(
        (stage.rate, stage.latency.p99_ms)
        for stage in repeat.stages
        if stage.latency and stage.meets(objective) and not generator_fault(stage, objective)
    )


def _common_rates(results: Sequence[Result]) -> list[float]:
    """The first's rates at which every result has a p99, measured or between two that were."""
    curves = [[_p99_ms(repeat, result.objective) for repeat in result.repeats] for result in results]
    rates = sorted({rate for curve in curves[0] for rate in curve})
    return [rate for rate in rates if all(any(at_rate(c, rate) is not None for c in several) for several in curves)]


def _differences(first: Overlay, other: Overlay) -> Iterator[Difference]:
    pairs = [(name, first.figures[name], other.figures[name]) for name in FIGURES]
    pairs += [(f"p99_ms at {number(rate)}", first.p99_ms[rate], other.p99_ms[rate]) for rate in first.p99_ms]
    for name, before, after in pairs:
        if before and after and before.least > 0:
            yield _difference(name, first.name, other.name, before, after)


def _difference(figure: str, first: str, other: str, before: Spread, after: Spread) -> Difference:
    ratio, least, most = after.median / before.median, after.least / before.most, after.most / before.least
    if min(before.n, after.n) == 1:
        is_beyond, spread_says = None, "one repeat, so the spread is unknown"
    else:
        is_beyond = not least <= 1 <= most
        than = "more than" if is_beyond else "within"
        spread_says = f"{number(least)} to {number(most)} over repeats, {than} the spread"
    name = FIGURES.get(figure) or f"{figure.replace('_', ' ')} requests/s"
    says = f"{other} over {first}: {name}: {number(ratio)} times ({spread_says})"
    return Difference(other, figure, ratio, least, most, is_beyond, says)


def _warnings(results: Sequence[Result]) -> Iterator[str]:
    for differs, read in CONDITIONS.items():
        if len({read(result) for result in results}) > 1:
            told = "; ".join(f"{result.name}: {read(result)}" for result in results)
            yield f"The {differs}, so figures are not comparable ({told})."
    for result in results:
        if result.is_generator_limited:
            yield f"{result.name}: the generator was the limit, so it has no capacity figure."
        elif result.options.shape == "ramp" and any(repeat.tipping_rate is None for repeat in result.repeats):
            yield f"{result.name}: no rate was too much for it, so it sustains at least what stands here."


def _deadline(deadline_ms: float | None) -> str:
    return "none" if deadline_ms is None else f"{deadline_ms:g} ms"


def _words(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in sorted(values.items()))
