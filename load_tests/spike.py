"""A spike: a rate, a multiple of it for a while, and the rate again; whether the server bears it and recovers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from load_tests import checks
from load_tests.conductor import Conductor, Found
from load_tests.objective import Objective
from load_tests.outcome import Phase
from load_tests.result import Check, Sample
from load_tests.stage import Stage

AFTER = 3
"""Stages of the base rate after the spike, as many as there is time for to recover in."""

SAMPLE_S = 0.5

KEPT = 0.95
"""Of the goodput before: what a spike leaves of it at least, as whoever is too many is refused."""

IN_A_ROW = 3
"""Samples as before until a server counts as recovered."""

SLOWER = 1.5
"""Times the worst p99 of a sample before: what still counts as before, as that of a sample is of few requests."""


@dataclass(frozen=True)
class Spike:
    """`factor` times the rate, after one stage and before `AFTER` of them."""

    rate: float
    """Requests a second."""
    factor: float
    seconds: float
    """Of the spike."""
    stage_s: float
    warm_up_s: float

    def __str__(self) -> str:
        return f"{self.factor:g} times {self.rate:g} requests/s for {self.seconds:g} s"

    def run(self, conductor: Conductor, found: Found) -> None:
        """Stages are before, spike, and after."""
        phases = [
            Phase(self.rate, self.warm_up_s, counts=False),
            Phase(self.rate, self.stage_s),
            Phase(self.factor * self.rate, self.seconds),
            Phase(self.rate, AFTER * self.stage_s),
        ]
        stages, samples = conductor.offer(phases, sample_s=SAMPLE_S)
        found.repeats.append(stages)
        found.samples += samples
        for stage in stages:
            conductor.display.done(stage)

    def checks(self, found: Found, objective: Objective) -> list[Check]:
        """Whether it kept to the objective before, to its goodput in the spike, recovered, and holds on to nothing."""
        before, spike, _ = found.stages
        end_s = self.stage_s + self.seconds
        calm = [sample for sample in found.samples if sample.at_s + SAMPLE_S / 2 < self.stage_s]  # not by rounding
        later = [sample for sample in found.samples if sample.at_s + SAMPLE_S / 2 >= end_s]
        kept_to = [checks.errors([before], objective), checks.latency([before], objective)]
        return [*kept_to, _goodput(before, spike), _recovery(calm, later, end_s), *checks.steady(checks.HELD, later)]


def _goodput(before: Stage, spike: Stage) -> Check:
    """Refusals are right in a spike, as long as those that are not refused are as many as before."""
    says = f"{spike.goodput:.4g}/s in the spike, {before.goodput:.4g}/s before; {spike.refused} of {spike.due} refused"
    return Check("goodput", spike.goodput >= KEPT * before.goodput, says)


def _recovery(before: Sequence[Sample], later: Sequence[Sample], end_s: float) -> Check:
    """When the share of right answers and the p99 of a sample are as before, several times in a row."""
    least_right = min(map(_right, before))
    most_ms = SLOWER * max((sample.p99_ms for sample in before if sample.p99_ms is not None), default=0.0)
    is_as_before = [_right(each) >= least_right and (each.p99_ms or 0.0) <= most_ms for each in later]
    for place in range(len(later) - IN_A_ROW + 1):
        if all(is_as_before[place : place + IN_A_ROW]):
            return Check("recovery", True, f"as before {later[place].at_s - end_s:.3g} s after the spike")
    last_s = later[-1].at_s - end_s if later else 0.0
    return Check("recovery", False, f"not as before {last_s:.3g} s after the spike")


def _right(sample: Sample) -> float:
    """Share of the requests that had a right answer."""
    return sample.right / max(sample.right + sample.refused + sample.failed, 1)
