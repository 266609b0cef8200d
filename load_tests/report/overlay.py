"""Plots of several results, one over the other."""

from __future__ import annotations

from collections.abc import Sequence

from load_tests.report.against_load import Value, ideal, percentile, stages_of
from load_tests.report.plot import Curve, Plot, curve, level, logarithmic
from load_tests.result import Result
from load_tests.verdict import FULL


def plots(results: Sequence[Result]) -> list[Plot]:
    """Those that any of the results has figures for; goodput and p99 come first."""
    objective = level(results[0].objective.p99_ms, "objective")
    made = (
        Plot(
            "goodput",
            "Goodput",
            "Right answers within the objective; bars reach from the least to the most of the repeats. "
            "On the dotted line every request gets one.",
            "right answers within the objective/s",
            overlaid(results, lambda stage: stage.goodput),
            [ideal],
        ),
        Plot(
            "p99",
            "p99",
            "Of right answers, from the moment at which a request was meant to go out.",
            "p99, ms",
            overlaid(results, percentile("p99_ms")),
            [logarithmic, objective],
        ),
        Plot(
            "errors",
            "Requests without a right answer",
            "Refused, failed, wrong or unsent.",
            "share of requests, %",
            overlaid(results, lambda stage: 100 * stage.errors),
        ),
        Plot(
            "cpu",
            "CPU of the server's busiest process",
            f"At {FULL:g} of a core it counts as saturated.",
            "cores",
            overlaid(results, lambda stage: stage.usage.busiest_server_process),
            [level(FULL, "saturated")],
        ),
    )
    return [plot for plot in made if plot.curves]


def overlaid(results: Sequence[Result], value: Value) -> list[Curve]:
    """A curve for each result that has the figure."""
    each = (curve(result.name, [(stage.rate, value(stage)) for stage in stages_of(result)]) for result in results)
    return [found for found in each if found]
