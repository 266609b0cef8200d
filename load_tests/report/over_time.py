"""Plots of a soak or a spike over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from load_tests.report.plot import Curve, Plot, curve, level, logarithmic
from load_tests.result import Result, Sample

TIME = "time, s"
OUTCOMES = ("right", "refused", "failed")
"""Fields of a `Sample` that add up to the requests that were due in it."""


def plots(result: Result) -> list[Plot]:
    """Those that the samples have figures for."""
    samples = result.samples
    made = (answers(samples), latency(result), memory(samples), handles(samples), cpu(samples))
    return [plot for plot in made if plot.curves]


def answers(samples: Sequence[Sample]) -> Plot:
    """What was offered, and what became of it."""
    offered = curve("offered", [(sample.at_s, sample.rate) for sample in samples])
    each = [curve(outcome, [(s.at_s, a_second(s, outcome)) for s in samples]) for outcome in OUTCOMES]
    return Plot(
        "answers-over-time",
        "Requests and answers",
        "A service that recovers answers all that is offered again soon after a spike, and keeps doing so in a soak.",
        "a second",
        [found for found in (offered, *each) if found],
        across=TIME,
    )


def latency(result: Result) -> Plot:
    """Median and p99 of each moment, and the objective."""
    return Plot(
        "latency-over-time",
        "Latency",
        "Of right answers, from the moment at which a request was meant to go out.",
        "latency, ms",
        over_time(result.samples, {"p50": "p50_ms", "p99": "p99_ms"}),
        [logarithmic, level(result.objective.p99_ms, "objective")],
        TIME,
    )


def memory(samples: Sequence[Sample]) -> Plot:
    """Resident memory of the server's processes."""
    return Plot(
        "memory-over-time",
        "Memory of the server",
        "Resident memory of all of its processes: a leak is a slope that does not end.",
        "MB",
        over_time(samples, {"memory": "memory_mb"}),
        across=TIME,
    )


def handles(samples: Sequence[Sample]) -> Plot:
    """What else can leak."""
    return Plot(
        "handles-over-time",
        "Open files and threads of the server",
        "Connections count as open files; once the load is steady, neither should grow.",
        "count",
        over_time(samples, {"open files": "open_files", "threads": "threads"}),
        across=TIME,
    )


def cpu(samples: Sequence[Sample]) -> Plot:
    """What the server used."""
    return Plot(
        "cpu-over-time",
        "CPU of the server",
        "Of all of its processes: the same load should not become dearer.",
        "cores",
        over_time(samples, {"server": "server_cores"}),
        across=TIME,
    )


def over_time(samples: Sequence[Sample], fields: Mapping[str, str]) -> list[Curve]:
    """A curve for each field of the samples that has a figure in any."""
    each = (curve(label, [(s.at_s, getattr(s, field)) for s in samples]) for label, field in fields.items())
    return [found for found in each if found]


def a_second(sample: Sample, outcome: str) -> float | None:
    """Of the rate that was offered, the share that became this; None where no request was due."""
    due = sum(getattr(sample, each) for each in OUTCOMES)
    return sample.rate * getattr(sample, outcome) / due if due else None
