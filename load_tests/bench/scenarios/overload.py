"""Twice what the dear model's server can do, from callers who do not wait for each other, with a deadline.

Each round first measures the capacity (what the server answers in a closed loop), then offers its multiple in an open
loop: arrivals are a Poisson process, latency counts from when a request was due, and an answer is good when it is 200
and came before the deadline.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from load_tests import machine
from load_tests.bench import summary
from load_tests.bench.bench import Bench, rounds
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.run import Run
from load_tests.bench.serving import Server
from load_tests.bench.work import Work
from load_tests.open_loop import arrivals, generator
from load_tests.open_loop.client import request
from load_tests.open_loop.offered import Offered
from load_tests.open_loop.record import NO_ANSWER, UNSENT
from load_tests.outcome import percentile

MEMORY_EVERY_S = 0.5
NAMES = {NO_ANSWER: "none", UNSENT: "not_sent"}


@dataclass(frozen=True)
class Overloaded:
    """One round; latencies in milliseconds, None where there are no such answers."""

    round: int
    capacity_per_s: float
    """What the server answered in a closed loop just before."""
    offered_per_s: float
    statuses: dict[str, int]
    """Answers by status; `none` for those that never came, `not_sent` where the generator had no connection left."""
    goodput_per_s: float
    goodput_over_capacity: float
    accepted_p50_ms: float | None
    accepted_p99_ms: float | None
    """Of answers with status 200."""
    refused_p50_ms: float | None
    refused_p99_ms: float | None
    """Of answers with status 503."""
    expired_p99_ms: float | None
    """Of answers with status 504."""
    refusals_with_retry_after: float | None
    """Their share."""
    late_p99_ms: float
    """How much later than due the generator turned to a request: it was the bottleneck where this is not small."""
    connections: int
    faults: dict[str, int]
    memory_growth_mb: float
    """Mean of the last quarter less that of the first that counts."""
    bound_by: str


def run(bench: Bench) -> dict[str, Any]:
    """Goodput in ratio to capacity, latencies of those accepted and of those refused, memory."""
    plan, model = bench.plan, bench.dear
    work = model.work(1)
    closed: list[Run] = []
    done: list[Overloaded] = []
    for server in bench.serve([CAUSEWAY], model, work):
        for number in rounds(plan.few_rounds):
            closed.append(bench.measure(server, work, number, plan.some_connections, plan.dear_run_s))
            bench.settle()
            done.append(_overload(bench, server, work, closed[-1]))
            bench.say(f"overload {number}: {done[-1].statuses}")
    bench.settle()
    bench.check(model, work)
    figures = [name for name, kind in Overloaded.__annotations__.items() if kind.startswith("float")]
    return {
        "figures": {name: summary.spread(getattr(this, name) for this in done) for name in figures},
        "rounds": done,
        "caveats": summary.caveats(closed),
        "closed_loop_runs": closed,
    }


def _overload(bench: Bench, server: Server, work: Work, closed: Run) -> Overloaded:
    plan = bench.plan
    requests = [request(body, {"X-Timeout-Ms": f"{plan.deadline_ms:g}"}) for body in work.bodies]
    rate_per_s = plan.overload_factor * closed.requests_per_s
    due_s = arrivals.poisson(rate_per_s, plan.warm_up_s + plan.overload_s, bench.rng)
    with bench.watch(server) as watch, _memory_mb(server.pids, plan.warm_up_s) as memory_mb:
        offered = generator.offer(server.port, requests, due_s, connections=plan.overload_connections)
        watch.generator_cpu_s = sum(offered.cpu_s)
    quarter = max(1, len(memory_mb) // 4)
    return _told(
        offered,
        counts=offered.due_s >= plan.warm_up_s,
        deadline_ms=plan.deadline_ms,
        seconds=plan.overload_s,
        round=closed.round,
        capacity_per_s=closed.requests_per_s,
        memory_growth_mb=float(np.mean(memory_mb[-quarter:]) - np.mean(memory_mb[:quarter])),
        bound_by=watch.usage.bound_by(CAUSEWAY.workers),
    )


@contextmanager
def _memory_mb(pids: Iterable[int], after_s: float) -> Iterator[list[float]]:
    """Resident memory of processes every now and then, from `after_s` on until the end."""
    seen: list[float] = []
    is_over = threading.Event()

    def watch() -> None:
        wait_s = after_s
        while not is_over.wait(wait_s):
            seen.append(machine.resident_mb(pids))
            wait_s = MEMORY_EVERY_S

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def _told(
    offered: Offered,
    counts: NDArray[np.bool_],
    *,
    deadline_ms: float,
    seconds: float,
    capacity_per_s: float,
    **others: Any,
) -> Overloaded:
    """What became of the requests that count, which are due within `seconds`."""
    status, latency_ms = offered.status[counts], offered.latency_s[counts] * 1000
    accepted, refused, expired = (latency_ms[status == code] for code in (200, 503, 504))
    goodput_per_s = int((accepted <= deadline_ms).sum()) / seconds
    return Overloaded(
        capacity_per_s=capacity_per_s,
        offered_per_s=len(status) / seconds,
        statuses=dict(Counter(NAMES.get(code, str(code)) for code in status.tolist())),
        goodput_per_s=goodput_per_s,
        goodput_over_capacity=goodput_per_s / capacity_per_s,
        accepted_p50_ms=percentile(accepted, 50),
        accepted_p99_ms=percentile(accepted, 99),
        refused_p50_ms=percentile(refused, 50),
        refused_p99_ms=percentile(refused, 99),
        expired_p99_ms=percentile(expired, 99),
        refusals_with_retry_after=float(offered.has_retry_after[counts][status == 503].mean())
        if len(refused)
        else None,
        late_p99_ms=float(np.percentile(offered.late_s[counts] * 1000, 99)),
        connections=offered.connections,
        faults=offered.faults,
        **others,
    )
