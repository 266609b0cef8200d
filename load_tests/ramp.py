"""A ramp: stages of rising rates, given ones or those that a search for the tipping point asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

from msgspec import structs

from load_tests.conductor import Conductor, Found
from load_tests.objective import Objective
from load_tests.stage import Stage
from load_tests.verdict import TWICE, generator_fault, is_disturbed

FIRST_RATE = 100.0
"""Requests a second with which a search begins; a server that does not stand them is offered less."""

PRECISION, LEAST_STEP = 0.05, 1.0
"""The rate that is sustained and the one that tips over are this near in the end: as a share of the latter, or so many
requests a second."""

BELOW = (0.3, 0.45, 0.6, 0.75)
"""Times the tipping rate, offered once it is known: models are fitted to them, and curves need points there."""

BEYOND = 1.5
"""Times the tipping rate, offered after these: a server whose CPU is the limit has its most goodput past that rate."""

TURNS = 3
"""Stages at `TWICE` the tipping rate in the end, each after one at the rate that had the most goodput below that. On a
shared machine the most of many stages is that of the moment in which it was quickest; a later one lies below it
whatever the server does."""

TRIES = 5
"""Most stages of one rate in a row: a rate is offered again where the generator was disturbed."""

MOST_RATE = 1e6
"""No search goes further."""


@dataclass(frozen=True)
class Ramp:
    """Rates, one stage each; `repeats` times."""

    rates: tuple[float, ...] | None
    """Requests a second; None: `search` chooses them."""
    stage_s: float
    warm_up_s: float
    repeats: int

    def run(self, conductor: Conductor, found: Found) -> None:
        """Each repeat is a whole ramp."""

        def measure(rate: float) -> Stage:
            return conductor.stage(rate, seconds=self.stage_s, warm_up_s=self.warm_up_s)

        for _ in range(self.repeats):
            found.repeats.append([])
            stages = (
                given(measure, self.rates, conductor.objective) if self.rates else search(measure, conductor.objective)
            )
            for stage in stages:
                found.repeats[-1].append(stage)  # first: an interrupt leaves what was told
                conductor.display.done(stage)


def given(measure: Callable[[float], Stage], rates: Iterable[float], objective: Objective) -> Iterator[Stage]:
    """One stage for each rate, and as many more as were disturbed."""
    for rate in rates:
        yield from _offered(measure, rate, objective, failures=1)


def search(measure: Callable[[float], Stage], objective: Objective) -> Iterator[Stage]:
    """Doubles the rate until the objective fails, halves what is between, and then goes below and beyond.

    A rate that fails is offered once more, and has failed where it fails again: on a shared machine a stage may be
    disturbed. Both stages are yielded. Ends where the generator was the limit: more would say nothing of the server.
    """
    done: list[Stage] = []

    def offered(rate: float, failures: int = 2) -> Generator[Stage, None, Stage]:
        for stage in _offered(measure, rate, objective, failures):
            done.append(stage)
            yield stage
        return done[-1]

    met, failed = 0.0, math.inf
    while _are_apart(met, failed):
        rate = (met + failed) / 2 if failed < math.inf else 2 * met or FIRST_RATE
        stage = yield from offered(rate)
        if stage.meets(objective):
            met = rate
        elif generator_fault(stage, objective):
            return
        else:
            failed = rate
    if failed < math.inf:
        for times in BELOW:
            yield from offered(times * failed)
        yield from offered(BEYOND * failed, failures=1)
        twice = TWICE * failed
        peak = max((stage for stage in done if stage.rate < twice), key=lambda stage: stage.goodput)
        for _ in range(TURNS):
            for rate in (peak.rate, twice):
                for stage in offered(rate, failures=1):
                    yield structs.replace(stage, in_turn=True)


def _offered(measure: Callable[[float], Stage], rate: float, objective: Objective, failures: int) -> Iterator[Stage]:
    """Until it has met the objective once or failed so often undisturbed."""
    for _ in range(TRIES):
        yield (stage := measure(rate))
        failures -= not is_disturbed(stage, objective)
        if stage.meets(objective) or failures == 0:
            break


def _are_apart(met: float, failed: float) -> bool:
    """Whether it is worth looking between the two, or above the first where nothing has failed."""
    return met < MOST_RATE if failed == math.inf else failed - met > max(PRECISION * failed, LEAST_STEP)
