"""Many runs in few figures: medians over the rounds, and ratios that are taken within a round.

Where `ENOUGH` runs were not disturbed by other people's work, only these count: what those took is measured apart from
what the contestant did, so this prefers no result over another.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from load_tests.bench.run import Run

ENOUGH = 3
"""Rounds whose median can be believed."""

T = TypeVar("T")
Spread = dict[str, float] | None
"""The median of some values, the least and the most of them; None of none."""

FIGURES: dict[str, Callable[[Run], float | None]] = {
    "requests_per_s": lambda run: run.requests_per_s,
    "rows_per_s": lambda run: run.rows_per_s,
    "p50_ms": lambda run: run.load.p50_ms,
    "p99_ms": lambda run: run.load.p99_ms,
    "p999_ms": lambda run: run.load.p999_ms,
    "server_cpu_us": lambda run: run.server_cpu_us,
    "peak_mb": lambda run: run.peak_mb,
    "server_cores": lambda run: run.usage.server,
    "generator_cores": lambda run: run.usage.generator,
}


def spread(values: Iterable[float | None]) -> Spread:
    """Median, least and most of those that are not None."""
    known = [value for value in values if value is not None]
    return {"median": statistics.median(known), "least": min(known), "most": max(known)} if known else None


def figures(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, Any]]]:
    """By contestant and connections: each figure's spread over the rounds, and what bounded the runs.

    `unanswered_share` is the share of requests that got anything but a 200.
    """
    return {
        contestant: {
            str(connections): _figures([run for run in runs if _at(run, contestant, connections)])
            for connections in _distinct(run.connections for run in runs if run.contestant == contestant)
        }
        for contestant in _distinct(run.contestant for run in runs)
    }


def ratios(runs: Sequence[Run], ours: str) -> dict[str, dict[str, dict[str, Spread]]]:
    """By other contestant, figure and connections: ours divided by theirs in the same round, spread over the rounds."""
    others = [name for name in _distinct(run.contestant for run in runs) if name != ours]
    loads = _distinct(run.connections for run in runs)
    return {
        other: {
            figure: {
                str(load): ratio([run for run in runs if run.connections == load], figure, ours, other)
                for load in loads
            }
            for figure in FIGURES
        }
        for other in others
    }


def ratio(runs: Sequence[Run], figure: str, over: str, under: str) -> Spread:
    """One contestant's figure divided by another's in the same round, spread over the rounds that have both."""
    read, divided, calm = FIGURES[figure], [], []
    for number in _distinct(run.round for run in runs):
        here = {run.contestant: run for run in runs if run.round == number}
        if over not in here or under not in here:
            continue
        above, below = read(here[over]), read(here[under])
        if above is not None and below:
            divided.append(above / below)
            if not (here[over].is_disturbed or here[under].is_disturbed):
                calm.append(divided[-1])
    return spread(calm if len(calm) >= ENOUGH else divided)


def over_engine(runs: Sequence[Run], rows_per_s: Mapping[int, float]) -> dict[str, Spread]:
    """By contestant: its rows a second divided by the engine's in the same round, spread over the rounds."""
    return {
        contestant: spread(
            run.rows_per_s / rows_per_s[run.round]
            for run in _counted([run for run in runs if run.contestant == contestant])
        )
        for contestant in _distinct(run.contestant for run in runs)
    }


def caveats(runs: Sequence[Run]) -> dict[str, Any]:
    """What limits trust in the runs: which were bound by the generator, disturbed, or begun before all was quiet."""
    return {
        "runs": len(runs),
        "bound_by_generator": [_name(run) for run in runs if run.bound_by == "generator"],
        "disturbed": [_name(run) for run in runs if run.is_disturbed],
        "not_settled": [_name(run) for run in runs if not run.is_settled],
        "others_cores": spread(run.usage.others + run.usage.stolen for run in runs),
    }


def _figures(runs: Sequence[Run]) -> dict[str, Any]:
    answered, requests = sum(run.load.answers_200 for run in runs), sum(run.load.requests for run in runs)
    return {
        "runs": len(runs),
        "undisturbed": sum(not run.is_disturbed for run in runs),
        **{name: spread(map(read, _counted(runs))) for name, read in FIGURES.items()},
        "unanswered_share": 1 - answered / requests if requests else None,
        "bound_by": dict(Counter(run.bound_by for run in runs)),
    }


def _counted(runs: Sequence[Run]) -> Sequence[Run]:
    calm = [run for run in runs if not run.is_disturbed]
    return calm if len(calm) >= ENOUGH else runs


def _at(run: Run, contestant: str, connections: int) -> bool:
    return run.contestant == contestant and run.connections == connections


def _distinct(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))


def _name(run: Run) -> str:
    return f"{run.contestant} at {run.connections}, round {run.round}"
