"""Offers rates to a server, one schedule after the other, and watches server, generators and machine meanwhile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event

import numpy as np
from numpy.typing import NDArray

from load_tests import machine, metrics, outcome
from load_tests.display import Display
from load_tests.moment import Moment, Told, Used
from load_tests.objective import Objective
from load_tests.open_loop import arrivals
from load_tests.open_loop.fleet import Fleet, Progress
from load_tests.open_loop.offered import Offered
from load_tests.outcome import Glance, Part, Phase
from load_tests.result import Sample
from load_tests.served import Server
from load_tests.stage import Stage
from load_tests.traffic import Traffic

SETTLE_S = 10.0
"""How long a server may take between two schedules until it answers nothing any more."""

EARLY_S = 0.5
"""How long before a stage counts the server is asked for its metrics: writing them takes tens of milliseconds."""

PAUSE_S = 0.05
"""Between two looks whether it still does."""


@dataclass
class Found:
    """What a load test has found so far; what is here stays, whatever ends it."""

    repeats: list[list[Stage]] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    url: str = ""
    """Of the server."""
    model: str | None = None
    """The version that it says it serves."""

    @property
    def stages(self) -> list[Stage]:
        """Of all repeats."""
        return [stage for stages in self.repeats for stage in stages]


@dataclass(frozen=True)
class Conductor:
    """Offers schedules of one kind of traffic to one server."""

    server: Server
    fleet: Fleet
    traffic: Traffic
    objective: Objective
    display: Display
    rng: np.random.Generator
    is_constant: bool = False
    """Whether requests come at equal distances; otherwise as a Poisson process, as independent users do."""

    def stage(self, rate: float, *, seconds: float, warm_up_s: float) -> Stage:
        """What becomes of `rate` requests a second, once the server has had them for a while."""
        (stage,), _ = self.offer([Phase(rate, warm_up_s, counts=False), Phase(rate, seconds)])
        return stage

    def offer(self, phases: Sequence[Phase], *, sample_s: float | None = None) -> tuple[list[Stage], list[Sample]]:
        """A stage for each phase that counts, and samples of them every `sample_s`; phases follow without a gap.

        Each stage's use of CPU, and what the server says of itself, are differences between the phase's ends. Begins
        once the server is quiet. Raises `ServerGone` where it is not there, or ends meanwhile.
        """
        self.settle()
        edges_s = [0.0, *np.cumsum([phase.seconds for phase in phases]).tolist()]
        due_s = self._schedule(phases)
        watch = _Watch(self, phases, edges_s)
        with watch.moments_taken():
            offered = self.fleet.offer(due_s, self.traffic.draw(len(due_s), self.rng), on_progress=watch)
        self.server.check()
        return self._told(offered, phases, watch, sample_s)

    def settle(self) -> None:
        """Waits until the server answers nothing any more, where it says so, and at most `SETTLE_S`."""
        give_up_s = time.monotonic() + SETTLE_S
        self.server.check()
        while metrics.is_quiet(metrics.series(self.server.url)) is False and time.monotonic() < give_up_s:
            time.sleep(PAUSE_S)

    def _schedule(self, phases: Sequence[Phase]) -> NDArray[np.float64]:
        """(n_requests,) seconds from the beginning, sorted."""
        times, start_s = [], 0.0
        for phase in phases:
            times.append(start_s + self._arrivals(phase))
            start_s += phase.seconds
        return np.concatenate(times)

    def _arrivals(self, phase: Phase) -> NDArray[np.float64]:
        if self.is_constant:
            return arrivals.constant(phase.rate, phase.seconds)
        return arrivals.poisson(phase.rate, phase.seconds, self.rng)

    def _told(
        self, offered: Offered, phases: Sequence[Phase], watch: _Watch, sample_s: float | None
    ) -> tuple[list[Stage], list[Sample]]:
        stages: list[Stage] = []
        samples: list[Sample] = []
        warm_up_s = sum(phase.seconds for phase in phases if not phase.counts)  # it comes first
        for number, (phase, edges_s) in enumerate(zip(phases, pairwise(watch.edges_s), strict=True)):
            if phase.counts:
                part = Part(offered, self.traffic, *edges_s)
                moments = watch.moments[: number + 2]
                stages.append(outcome.stage(part, phase, warm_up_s, self.objective, moments))
                if sample_s is not None:
                    samples += outcome.samples(part, phase, sample_s, watch.glances, since_s=warm_up_s)
        return stages, samples


class _Watch:
    """Looks at the server while a schedule is offered: at every edge between phases, and at each progress."""

    def __init__(self, conductor: Conductor, phases: Sequence[Phase], edges_s: Sequence[float]) -> None:
        self.edges_s = edges_s
        self.moments: list[Moment] = []
        self.glances: list[Glance] = []
        self._conductor, self._phases = conductor, phases
        self._server_pids = conductor.server.pids
        self._start_s = 0.0
        self._has_begun, self._is_over = Event(), Event()

    def __call__(self, progress: Progress) -> None:
        """Takes note of the generators' progress."""
        if not self._has_begun.is_set():
            self._start_s = time.perf_counter() - progress.at_s
            self._has_begun.set()
        if progress.failed:
            self._conductor.server.check()
        if self._server_pids:
            held, cpu_s = machine.held(self._server_pids), machine.cpu_s(self._server_pids)
            self.glances.append(Glance(progress.at_s, held, cpu_s))
        place = min(int(np.searchsorted(self.edges_s, progress.at_s, side="right")), len(self._phases)) - 1
        self._conductor.display.progress(self._phases[max(place, 0)], self.edges_s[-1], progress, self.glances)

    @contextmanager
    def moments_taken(self) -> Iterator[None]:
        """Takes a `Moment` at each edge, in threads: a busy server may tell of one after the next one.

        What it says at the end of a warm-up it is asked for a little earlier, as it stands still while it says it.
        """
        early_s = [0.0, *(0.0 if phase.counts else min(EARLY_S, phase.seconds / 2) for phase in self._phases)]
        with ThreadPoolExecutor(2 * len(self.edges_s)) as pool:
            used = [pool.submit(self._used, edge_s) for edge_s in self.edges_s]
            told = [pool.submit(self._told, at_s) for at_s in np.subtract(self.edges_s, early_s).tolist()]
            try:
                yield
            except BaseException:
                self._is_over.set()
                raise
            finally:
                self._has_begun.set()
            self.moments = [Moment(one.result(), other.result()) for one, other in zip(used, told, strict=True)]

    def _used(self, at_s: float) -> Used:
        self._wait_until(at_s)
        return Used.now(self._conductor.server, self._conductor.fleet.pids)

    def _told(self, at_s: float) -> Told:
        self._wait_until(at_s)
        return Told.now(self._conductor.server)

    def _wait_until(self, at_s: float) -> None:
        """Until then in the schedule, or until it is over."""
        self._has_begun.wait()
        self._is_over.wait(max(0.0, self._start_s + at_s - time.perf_counter()))
