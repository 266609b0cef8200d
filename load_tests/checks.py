"""The questions to a soak and a spike alike: errors, latency, and whether anything grows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from load_tests.objective import Objective
from load_tests.result import Check, Sample
from load_tests.stage import Stage
from load_tests.trend import Trend

FEWEST = 5
"""Samples of which a trend is told."""

HELD = {
    "memory": ("memory_mb", "MB", 0.01),
    "open files": ("open_files", "files", 0.01),
    "threads": ("threads", "threads", 0.01),
}
"""What a server must not hold more and more of: the sample's field, its unit, and the share of its level from which on
growth matters."""

DRIFT = {"latency": ("p99_ms", "ms (p99)", 0.1)}
"""The same of what it must not take more and more of."""


def errors(stages: Sequence[Stage], objective: Objective) -> Check:
    """Whether the share of requests without a right answer kept to the objective, over all stages."""
    due, right = sum(stage.due for stage in stages), sum(stage.right for stage in stages)
    share = (due - right) / max(due, 1)  # as `Stage.errors`: 1 less a quotient is more than 0.1 % for 10 of 10 000
    says = f"{100 * share:.3g} % of {due} requests got no right answer, of at most {100 * objective.errors:g} %"
    return Check("errors", share <= objective.errors, says)


def latency(stages: Sequence[Stage], objective: Objective) -> Check:
    """Whether the p99 of all kept to the objective: 99 % of the right answers were within it."""
    good, right = sum(stage.good for stage in stages), sum(stage.right for stage in stages)
    worst = max((stage.latency.p99_ms for stage in stages if stage.latency), default=math.nan)
    within = f"{100 * good / max(right, 1):.4g} % of {right} right answers came within {objective.p99_ms:g} ms"
    says = f"{within}; the worst p99 in {stages[0].seconds:.3g} s was {worst:.3g} ms"
    return Check("latency", good >= 0.99 * right > 0, says)


def steady(figures: dict[str, tuple[str, str, float]], samples: Sequence[Sample]) -> list[Check]:
    """Whether each of `HELD` or `DRIFT` stays as it is; those left out that cannot be seen, or in too few samples."""
    return list(_steady(figures, samples))


def _steady(figures: dict[str, tuple[str, str, float]], samples: Sequence[Sample]) -> Iterable[Check]:
    for name, (field, unit, share) in figures.items():
        known = [(sample.at_s, value) for sample in samples if (value := getattr(sample, field)) is not None]
        if len(known) >= FEWEST:
            trend = Trend.of(*zip(*known, strict=True))
            yield Check(f"steady {name}", not trend.grows(share), trend.says(unit))
