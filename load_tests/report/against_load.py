"""Plots of a ramp over the offered load: what became of the requests, what was busy, and what models make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes

from load_tests.report import canvas
from load_tests.report.plot import Curve, Plot, curve, level, logarithmic
from load_tests.report.words import exactly
from load_tests.result import Fit, Result
from load_tests.stage import Stage
from load_tests.verdict import FULL, spread

Value = Callable[[Stage], float | None]

PERCENTILES = {"p50": "p50_ms", "p95": "p95_ms", "p99": "p99_ms", "p99.9": "p999_ms"}
"""Fields of a `Latency` by what they are called."""

TIMES = {
    "queue": "queue_ms",
    "compute": "compute_ms",
    "decode": "decode_ms",
    "encode": "encode_ms",
    "loop lag": "loop_lag_ms",
}
"""Fields of a `ServerSide`."""


def plots(result: Result) -> list[Plot]:
    """Those that the result has figures for; `goodput` and `latency` come first."""
    stages = stages_of(result)
    made = (
        goodput(result),
        latency(result),
        by_user(result),
        server_times(stages),
        batches(stages),
        errors(result),
        cpu(stages),
        repeats(result),
    )
    return [plot for plot in made if plot.curves]


def stages_of(result: Result) -> list[Stage]:
    """Of all repeats."""
    return [stage for repeat in result.repeats for stage in repeat.stages]


def goodput(result: Result) -> Plot:
    """Right answers a second, within the objective and at all."""
    values: dict[str, Value] = {"goodput": lambda stage: stage.goodput, "throughput": lambda stage: stage.throughput}
    return Plot(
        "goodput",
        "Goodput and throughput",
        "Goodput counts the right answers within the objective's p99, throughput all right answers. On the dotted line "
        "every request would get one: where the curves leave it, the service has tipped over.",
        "right answers/s",
        over_load(stages_of(result), values),
        [ideal, *tipping(result)],
    )


def latency(result: Result) -> Plot:
    """Percentiles, and the objective."""
    return Plot(
        "latency",
        "Latency",
        "Of right answers, from the moment at which a request was meant to go out, so that all waiting counts. "
        "The objective is kept as long as p99 stays under the level line.",
        "latency, ms",
        over_load(stages_of(result), {name: percentile(field) for name, field in PERCENTILES.items()}),
        [logarithmic, level(result.objective.p99_ms, "objective"), *tipping(result)],
    )


def by_user(result: Result) -> Plot:
    """The p99 of each kind of user, where there are several."""
    stages = stages_of(result)
    users = sorted({user for stage in stages for user in stage.users})
    return Plot(
        "users",
        "p99 by kind of user",
        "Users with larger requests, or with another priority, may wait for longer than the rest.",
        "p99, ms",
        over_load(stages, {user: percentile_of(user) for user in users}),
        [logarithmic, level(result.objective.p99_ms, "objective")],
    )


def server_times(stages: Sequence[Stage]) -> Plot:
    """Where a request's time goes, as the server sees it."""
    return Plot(
        "server-times",
        "Time in the server",
        "Means of what the server itself measured in the stage, from /metrics. A queue that grows while compute does "
        "not means that requests wait for their turn.",
        "mean, ms",
        over_load(stages, {name: server_side(field) for name, field in TIMES.items()}),
        [logarithmic],
    )


def batches(stages: Sequence[Stage]) -> Plot:
    """Mean rows in a call of the engine."""
    return Plot(
        "batches",
        "Rows in a batch",
        "Mean rows in a call of the engine, from /metrics: under load requests share calls, which makes each cheaper.",
        "rows",
        over_load(stages, {"batch rows": server_side("batch_rows")}),
    )


def errors(result: Result) -> Plot:
    """Shares of the requests without a right answer, by what became of them."""
    stages = stages_of(result)
    codes = sorted({code for stage in stages for code in stage.server_side.refusals})
    values: dict[str, Value] = {f"refused: {code}": refused_with(code) for code in codes}
    if not codes:
        values["refused"] = lambda stage: share(stage.refused, stage)
    values |= {
        "failed": lambda stage: share(stage.failed, stage),
        "wrong": lambda stage: share(stage.wrong, stage),
        "unsent": lambda stage: share(stage.unsent, stage),
    }
    allowed = 100 * result.objective.errors
    return Plot(
        "errors",
        "Requests without a right answer",
        "Refusals are the server's word that it will not, by its own code; failures are other statuses and broken "
        "connections; for unsent requests the generator had no connection. What stayed at zero is left out.",
        "share of requests, %",
        [each for each in over_load(stages, values) if any(seen.most for seen in each.points.values())],
        [near_zero_too(allowed or 0.1), level(allowed, "objective")],
    )


def cpu(stages: Sequence[Stage]) -> Plot:
    """What the two sides used."""
    all_processes: dict[str, Value] = {"server, all processes": lambda stage: stage.usage.server}
    one: dict[str, Value] = {
        "server, busiest process": lambda stage: stage.usage.busiest_server_process,
        "generator, busiest process": lambda stage: stage.usage.busiest_generator,
        "machine, mean core": lambda stage: stage.usage.machine,
    }
    curves = over_load(stages, one)
    return Plot(
        "cpu",
        "CPU",
        f"What uses {FULL:g} of a core counts as saturated. {saturation(curves)}",
        "cores",
        [*over_load(stages, all_processes), *curves],
        [level(FULL, "saturated")],
    )


def repeats(result: Result) -> Plot:
    """The goodput of each repeat, where there are several."""
    each = [
        curve(f"repeat {n}", [(stage.rate, stage.goodput) for stage in repeat.stages])
        for n, repeat in enumerate(result.repeats, 1)
    ]
    return Plot(
        "repeats",
        "Goodput of each repeat",
        "The same ramp, measured again: where the curves part, chance or a neighbour on the machine had a hand in it.",
        "right answers within the objective/s",
        [found for found in each if found and len(each) > 1],
        [ideal],
    )


def models(result: Result) -> list[Plot]:
    """What was measured and what each fitted model says, for throughput and for p99."""
    stages = stages_of(result)
    measured: dict[str, Value] = {"throughput": lambda stage: stage.throughput, "p99_ms": percentile("p99_ms")}
    units = {"throughput": "right answers/s", "p99_ms": "p99, ms"}
    return [
        Plot(
            f"models-{of.replace('_', '-')}",
            f"Fitted models of {'p99' if of == 'p99_ms' else of}",
            "Fitted to the stages below the tipping point alone; what they say of higher rates is a prediction.",
            units[of],
            over_load(stages, {"measured": value}),
            [fitted(place, fit) for place, fit in enumerate(fits, 1)]
            + ([logarithmic] if of == "p99_ms" else [])
            + [within_measured(stages, value)],  # after the scale, which the other end of the axis depends on
        )
        for of, value in measured.items()
        if (fits := [fit for fit in result.fits if fit.of == of])
    ]


def over_load(stages: Iterable[Stage], values: Mapping[str, Value]) -> list[Curve]:
    """A curve for each figure that any stage has; the stages at one rate make one point."""
    stages = list(stages)
    each = (curve(label, [(stage.rate, value(stage)) for stage in stages]) for label, value in values.items())
    return [found for found in each if found]


def percentile(field: str) -> Value:
    """Of the latency of right answers."""
    return lambda stage: getattr(stage.latency, field, None)


def percentile_of(user: str) -> Value:
    """The p99 of a kind of user."""
    return lambda stage: stage.users[user].p99_ms if user in stage.users else None


def server_side(field: str) -> Value:
    """What the server said of itself."""
    return lambda stage: getattr(stage.server_side, field)


def refused_with(code: str) -> Value:
    """The share refused, split as the server's own count is: that one is taken a moment before and after."""

    def value(stage: Stage) -> float:
        codes = stage.server_side.refusals
        return share(stage.refused * codes.get(code, 0.0) / (sum(codes.values()) or 1.0), stage)

    return value


def share(n: float, stage: Stage) -> float:
    """In percent of the requests of a stage."""
    return 100 * n / max(stage.due, 1)


def saturation(curves: Sequence[Curve]) -> str:
    """For each curve, in a sentence, from which rate on it is full."""
    return f"Saturated were: {'; '.join(f'{each.label}: {_full_from(each)}' for each in curves)}."


def _full_from(curve: Curve) -> str:
    """Where a curve stays full to its end, or where it is now and then."""
    full = [rate for rate, seen in curve.points.items() if seen.median >= FULL]
    if not full:
        return "at no rate"
    last_not = max((rate for rate in curve.points if rate not in full), default=0.0)
    if full[-1] < last_not:
        return f"now and then, first at {exactly(full[0])} requests/s"
    return f"from {exactly(min(rate for rate in full if rate > last_not))} requests/s on"


def ideal(axes: Axes) -> None:
    """A mark: every request gets a right answer; drawn no higher than what was reached."""
    top = axes.get_ylim()[1]
    rates = np.unique(np.concatenate([line.get_xdata() for line in axes.lines]))
    axes.plot(rates, rates, color=canvas.INK, linewidth=1, linestyle=":", label="ideal")
    axes.set_ylim(0, 1.05 * top)


def tipping(result: Result) -> list[canvas.Draw]:
    """Marks: the median of the measured tipping points, and what the model with the least error predicted.

    None if the generator was the limit.
    """
    if result.is_generator_limited:
        return []
    measured = spread(repeat.tipping_rate for repeat in result.repeats)
    marks = [upright(measured.median, "tipping point", "-")] if measured else []
    predicted = [(fit.predicted_rate, fit.name) for fit in result.fits[:1]]
    return marks + [upright(rate, f"predicted: {name}", "-.") for rate, name in predicted if rate is not None]


def upright(rate: float, label: str, dashes: str) -> canvas.Draw:
    """A mark: a vertical line."""
    return lambda axes: axes.axvline(rate, color=canvas.INK, linewidth=1.2, linestyle=dashes, label=label)


def near_zero_too(least: float) -> canvas.Draw:
    """A mark: a vertical axis that is logarithmic above `least`, and linear below it down to zero."""

    def scale(axes: Axes) -> None:
        axes.set_yscale("symlog", linthresh=least)
        axes.set_ylim(bottom=0)

    return scale


def fitted(place: int, fit: Fit) -> canvas.Draw:
    """A mark: the curve of a model."""
    looks = canvas.looks(place) | {"marker": ""}
    rates, values = [rate for rate, _ in fit.curve], [value for _, value in fit.curve]
    return lambda axes: axes.plot(rates, values, label=fit.name, **looks)


def within_measured(stages: Sequence[Stage], value: Value) -> canvas.Draw:
    """A mark: the axes end a little above what was measured, as a model's latency grows without bound."""
    most = max((value(stage) or 0.0 for stage in stages), default=1.0)
    return lambda axes: axes.set_ylim(top=1.2 * most)
