"""What became of the requests of a part of a schedule: a stage's figures, and samples in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from load_tests.machine import Held
from load_tests.metrics import growth, server_side
from load_tests.moment import Moment
from load_tests.objective import Objective
from load_tests.open_loop.offered import Offered, Outcome
from load_tests.result import Sample
from load_tests.stage import Latency, Stage
from load_tests.traffic import Traffic

LATEST = 0.1
"""Share of a phase after which it is too late to tell how it was when it began."""


@dataclass(frozen=True)
class Phase:
    """A part of a schedule that is offered at one rate."""

    rate: float
    """Requests a second."""
    seconds: float
    counts: bool = True
    """Otherwise it is warm-up."""


@dataclass(frozen=True)
class Glance:
    """What the server held and had used at a moment of the schedule."""

    at_s: float
    """Since the schedule's beginning."""
    held: Held
    cpu_s: float


@dataclass(frozen=True)
class Part:
    """The requests of a schedule that were due from `start_s` until `end_s`."""

    offered: Offered
    traffic: Traffic
    start_s: float
    end_s: float

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end_s - self.start_s

    @cached_property
    def counts(self) -> NDArray[np.bool_]:
        """(n_requests,): whether a request of the schedule is of this part."""
        return self._is_within(self.offered.due_s)

    @property
    def sent(self) -> int:
        """Requests that went out in this time, whenever they were due."""
        return int(self._is_within(self.offered.sent_s).sum())

    def n(self, outcome: Outcome) -> int:
        """How many became this."""
        return int((self._outcome == outcome).sum())

    def latency_ms(self, outcome: Outcome) -> NDArray[np.float64]:
        """(n,) of those that became this."""
        found: NDArray[np.float64] = self._latency_ms[self._outcome == outcome]
        return found

    def good(self, objective: Objective) -> tuple[int, int]:
        """Requests that were answered right and within the objective's p99, and rows in them."""
        is_good = (self._outcome == Outcome.RIGHT) & (self._latency_ms <= objective.p99_ms)
        return int(is_good.sum()), int(self.rows[is_good].sum())

    @cached_property
    def rows(self) -> NDArray[np.intp]:
        """(n,) in each request."""
        return self.traffic.rows[self.offered.place[self.counts]]

    def by_kind(self) -> dict[str, Latency]:
        """Of right answers, by kind of user; empty where all are of one kind."""
        kinds = np.array([request.kind for request in self.traffic.requests])[self.offered.place[self.counts]]
        is_right = self._outcome == Outcome.RIGHT
        found = {kind.name: latency(self._latency_ms[is_right & (kinds == kind.name)]) for kind in self.traffic.kinds}
        return {name: each for name, each in found.items() if each} if len(self.traffic.kinds) > 1 else {}

    def _is_within(self, at_s: NDArray[np.float64]) -> NDArray[np.bool_]:
        return (at_s >= self.start_s) & (at_s < self.end_s)

    @cached_property
    def _outcome(self) -> NDArray[np.int8]:
        return self.offered.outcome[self.counts]

    @cached_property
    def _latency_ms(self) -> NDArray[np.float64]:
        return self.offered.latency_s[self.counts] * 1e3


def stage(part: Part, phase: Phase, warm_up_s: float, objective: Objective, moments: Sequence[Moment]) -> Stage:
    """What became of a phase's requests; moments: the edges of the schedule up to the phase's end.

    `faults` are those of the whole schedule. What the server says of itself begins with the last edge of which it told
    before a tenth of the phase was over: one that is overloaded may take seconds.
    """
    *_, before, after = moments
    in_time_s = before.used.at_s + LATEST * phase.seconds
    told = [moment.told for moment in moments[:-1] if moment.told.at_s <= in_time_s] or [before.told]
    offered = part.offered
    good, good_rows = part.good(objective)
    has_faults = part.n(Outcome.FAILED) + part.n(Outcome.WRONG) > 0
    return Stage(
        rate=phase.rate,
        rows=float(part.rows.mean()) if len(part.rows) else 0.0,
        warm_up_s=warm_up_s,
        seconds=part.seconds,
        due=int(part.counts.sum()),
        right=part.n(Outcome.RIGHT),
        refused=part.n(Outcome.REFUSED),
        failed=part.n(Outcome.FAILED),
        wrong=part.n(Outcome.WRONG),
        unsent=part.n(Outcome.UNSENT),
        good=good,
        good_rows=good_rows,
        sent=part.sent,
        late_p99_ms=percentile(offered.late_s[part.counts] * 1e3, 99) or 0.0,
        connections=offered.connections,
        latency=latency(part.latency_ms(Outcome.RIGHT)),
        refusal_p99_ms=percentile(part.latency_ms(Outcome.REFUSED), 99),
        faults=offered.faults if has_faults else {},
        usage=after.usage(before),
        server_side=server_side(growth(told[-1].series, after.told.series)),
        users=part.by_kind(),
        began=offered.began + part.start_s,
    )


def samples(part: Part, phase: Phase, every_s: float, glances: Sequence[Glance], *, since_s: float) -> list[Sample]:
    """A part in pieces of about `every_s`, each with what the server held at its end; `at_s` counts from `since_s`."""
    edges = np.linspace(part.start_s, part.end_s, max(1, round(part.seconds / every_s)) + 1).tolist()
    pieces = [Part(part.offered, part.traffic, start, end) for start, end in pairwise(edges)]
    return [_sample(piece, phase, glances, piece.start_s - since_s) for piece in pieces]


def _sample(piece: Part, phase: Phase, glances: Sequence[Glance], at_s: float) -> Sample:
    latency_ms = piece.latency_ms(Outcome.RIGHT)
    held = _held(piece, glances)
    return Sample(
        at_s=at_s,
        rate=phase.rate,
        right=piece.n(Outcome.RIGHT),
        refused=piece.n(Outcome.REFUSED),
        failed=piece.n(Outcome.FAILED) + piece.n(Outcome.WRONG) + piece.n(Outcome.UNSENT),
        p50_ms=percentile(latency_ms, 50),
        p99_ms=percentile(latency_ms, 99),
        memory_mb=held.resident_mb if held else None,
        open_files=held.open_files if held else None,
        threads=held.threads if held else None,
        server_cores=_cores(piece, glances) if held else None,
    )


def _held(piece: Part, glances: Sequence[Glance]) -> Held | None:
    """At the last glance before the piece's end, otherwise at the first one; None of none."""
    before = [glance for glance in glances if glance.at_s <= piece.end_s] or glances[:1]
    return before[-1].held if before else None


def _cores(piece: Part, glances: Sequence[Glance]) -> float:
    """What the server used, between two glances as much at any time."""
    at_s, cpu_s = [glance.at_s for glance in glances], [glance.cpu_s for glance in glances]
    start_s, end_s = np.interp([piece.start_s, piece.end_s], at_s, cpu_s)
    return float(end_s - start_s) / piece.seconds


def latency(values_ms: NDArray[np.float64]) -> Latency | None:
    """None of none."""
    if not len(values_ms):
        return None
    p50, p95, p99, p999 = np.percentile(values_ms, [50, 95, 99, 99.9])
    return Latency(*map(float, (values_ms.mean(), p50, p95, p99, p999, values_ms.max())))


def percentile(values: NDArray[np.float64], q: float) -> float | None:
    """None of none."""
    return float(np.percentile(values, q)) if len(values) else None
