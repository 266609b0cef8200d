"""Many runs in few figures: medians over the rounds, and ratios that are taken within a round.

A run that other people's work disturbed counts only where there is none that was not: what they took is measured
apart from what the contestant did, so this prefers no result over another.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from load_tests.bench.run import Run

T = TypeVar("T")

FIGURES: dict[str, Callable[[Run], float | None]] = {
    "requests_per_s": lambda run: run.requests_per_s,
    "rows_per_s": lambda run: run.rows_per_s,
    "p50_ms": lambda run: run.p50_ms,
    "p99_ms": lambda run: run.p99_ms,
    "server_cpu_us": lambda run: run.server_cpu_us,
    "peak_mb": lambda run: run.peak_mb,
    "server_cores": lambda run: run.usage.server,
    "generator_cores": lambda run: run.usage.generator,
}


def medians(runs: Sequence[Run]) -> dict[str, dict[str, dict[str, Any]]]:
    """By contestant and connections: each figure's median, least and most over the rounds, and what bounded all runs.

    `unanswered_share` is the share of requests that got anything but a 200.
    """
    return {
        contestant: {
            str(connections): _medians([run for run in runs if _at(run, contestant, connections)])
            for connections in _distinct(run.connections for run in runs if run.contestant == contestant)
        }
        for contestant in _distinct(run.contestant for run in runs)
    }


def ratios(runs: Sequence[Run], figure: str, over: str, under: str) -> dict[str, float | None]:
    """By connections: the median over rounds of one contestant's figure divided by another's in the same round.

    None where there is no round with both.
    """
    read, result = FIGURES[figure], {}
    for connections in _distinct(run.connections for run in runs):
        divided, calm = [], []
        for number in _distinct(run.round for run in runs):
            here = {run.contestant: run for run in runs if (run.round, run.connections) == (number, connections)}
            if over not in here or under not in here:
                continue
            above, below = read(here[over]), read(here[under])
            if above is not None and below:
                divided.append(above / below)
                if not (here[over].is_disturbed or here[under].is_disturbed):
                    calm.append(divided[-1])
        result[str(connections)] = median(calm or divided)
    return result


def over(runs: Sequence[Run], rows_per_s: Mapping[int, float]) -> float | None:
    """The median over rounds of a contestant's rows a second divided by those measured beside it, by round."""
    return median(run.rows_per_s / rows_per_s[run.round] for run in _counted(runs))


def against(runs: Sequence[Run], ours: str, figures: Iterable[str]) -> dict[str, dict[str, dict[str, float | None]]]:
    """By other contestant and figure: `ratios` of ours over theirs."""
    others = [name for name in _distinct(run.contestant for run in runs) if name != ours]
    return {other: {figure: ratios(runs, figure, ours, other) for figure in figures} for other in others}


def caveats(runs: Sequence[Run]) -> dict[str, Any]:
    """What limits trust in the runs: which were bound by the generator, disturbed, or begun before all was quiet."""
    return {
        "runs": len(runs),
        "bound_by_generator": [_name(run) for run in runs if run.bound_by == "generator"],
        "disturbed": [_name(run) for run in runs if run.is_disturbed],
        "not_settled": [_name(run) for run in runs if not run.is_settled],
        "others_cores_median": median([run.usage.others + run.usage.stolen for run in runs]),
    }


def median(values: Iterable[float | None]) -> float | None:
    """The median of those that are not None; None of none."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _medians(runs: Sequence[Run]) -> dict[str, Any]:
    told: dict[str, Any] = {"runs": len(runs), "undisturbed": sum(not run.is_disturbed for run in runs)}
    for name, read in FIGURES.items():
        values = [value for value in map(read, _counted(runs)) if value is not None]
        told[name] = median(values)
        told[f"{name}_range"] = [min(values), max(values)] if values else None
    requests = sum(run.answers_200 + run.answers_other + run.broken + run.timed_out for run in runs)
    told["unanswered_share"] = 1 - sum(run.answers_200 for run in runs) / requests if requests else None
    told["bound_by"] = dict(Counter(run.bound_by for run in runs))
    return told


def _counted(runs: Sequence[Run]) -> Sequence[Run]:
    return [run for run in runs if not run.is_disturbed] or runs


def _at(run: Run, contestant: str, connections: int) -> bool:
    return run.contestant == contestant and run.connections == connections


def _distinct(values: Iterable[T]) -> list[T]:
    return list(dict.fromkeys(values))


def _name(run: Run) -> str:
    return f"{run.contestant} at {run.connections}, round {run.round}"
