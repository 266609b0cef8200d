"""A soak: one rate for a long time, and whether anything grows or drifts meanwhile."""

from __future__ import annotations

import math
from dataclasses import dataclass

from msgspec.structs import replace

from load_tests import checks
from load_tests.conductor import Conductor, Found
from load_tests.objective import Objective
from load_tests.outcome import Phase
from load_tests.result import Check

PIECE_S = 60.0
"""Longest schedule: what came before is kept, whatever happens. Between two the server rests for less than a second."""

SAMPLES, LEAST_SAMPLE_S = 240, 1.0
"""How many, and how far apart at least."""


@dataclass(frozen=True)
class Soak:
    """A steady rate."""

    rate: float
    """Requests a second."""
    seconds: float
    warm_up_s: float

    def __str__(self) -> str:
        return f"{self.rate:g} requests/s for {self.seconds:g} s"

    def run(self, conductor: Conductor, found: Found) -> None:
        """Stages are equal pieces of it, in turn; the first one has the warm-up."""
        found.repeats.append([])
        sample_s = max(LEAST_SAMPLE_S, self.seconds / SAMPLES)
        n_pieces = math.ceil(self.seconds / PIECE_S)
        piece = Phase(self.rate, self.seconds / n_pieces)
        for number in range(n_pieces):
            warm_up = [] if number else [Phase(self.rate, self.warm_up_s, counts=False)]
            (stage,), samples = conductor.offer([*warm_up, piece], sample_s=sample_s)
            found.repeats[0].append(stage)
            conductor.display.done(stage)
            later_s = stage.began - found.stages[0].began
            found.samples += [replace(sample, at_s=later_s + sample.at_s) for sample in samples]

    def checks(self, found: Found, objective: Objective) -> list[Check]:
        """Whether errors and latency kept to the objective, and whether anything grew that can be seen."""
        late = found.samples[len(found.samples) // 2 :]  # caches fill in the first half
        kept_to = [checks.errors(found.stages, objective), checks.latency(found.stages, objective)]
        return kept_to + checks.steady({**checks.HELD, **checks.DRIFT}, late)
