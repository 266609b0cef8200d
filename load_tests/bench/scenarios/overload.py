"""Twice what the dear model's server can do, from callers who do not wait for each other, with a deadline.

Each round first measures the capacity (what the server answers in a closed loop), then offers its multiple in an open
loop: arrivals are a Poisson process, latency counts from when a request was due, and an answer is good when it is 200
and came before the deadline.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import uvloop
from numpy.typing import NDArray

from load_tests.bench import machine, open_loop, summary
from load_tests.bench.bench import Bench, plain
from load_tests.bench.client import request
from load_tests.bench.open_loop import NO_ANSWER, NOT_SENT, Offered
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.run import Run, Usage
from load_tests.bench.serving import Server
from load_tests.bench.work import Work

MEMORY_EVERY_S = 0.5

LATE_MS = 10.0
"""Requests that go out later than this at p99 mean that the generator could not keep its schedule."""


@dataclass(frozen=True)
class Overloaded:
    """One round; latencies in milliseconds, NaN where there are no such answers."""

    round: int
    capacity_per_s: float
    """What the server answered in a closed loop just before."""
    offered_per_s: float
    seconds: float
    statuses: dict[str, int]
    """Answers by status; `none` for those that never came, `not_sent` where the generator had no connection left."""
    goodput_per_s: float
    goodput_over_capacity: float
    goodput_over_engine: float
    """In ratio to the engine in process at its best batch size."""
    accepted_p50_ms: float
    accepted_p99_ms: float
    """Of answers with status 200."""
    refused_p50_ms: float
    refused_p99_ms: float
    """Of answers with status 503."""
    expired_p99_ms: float
    """Of answers with status 504."""
    refusals_with_retry_after: float
    """Their share."""
    late_p99_ms: float
    """How much later than due the generator turned to a request."""
    connections: int
    faults: dict[str, int]
    memory_mb: list[tuple[float, float]]
    """Seconds and resident memory of the server."""
    memory_growth_mb: float
    """Mean of the last quarter less that of the first."""
    usage: Usage
    bound_by: str
    is_generator_late: bool


def run(bench: Bench) -> dict[str, Any]:
    """Goodput in ratio to capacity, latencies of those accepted and of those refused, memory."""
    plan, model = bench.plan, bench.dear
    work = model.work(1)
    servers = bench.serve([CAUSEWAY], model, work)
    closed: list[Run] = []
    rounds: list[Overloaded] = []
    for number in bench.rounds(plan.overload_rounds):
        for server in servers:
            closed.append(bench.measure(server, work, number, plan.dear_connections))
            if closed[-1].answers_200:
                engine_per_s = bench.dear_engine.rows_per_s(bench.best_batch(), plan.run_s / 3)
                bench.settle()
                rounds.append(_overload(bench, server, work, number, closed[-1].requests_per_s, engine_per_s))
    bench.settle()
    bench.check(servers, model, work)
    return {
        "deadline_ms": plan.deadline_ms,
        "closed_loop_runs": plain(closed),
        "rounds": plain(rounds),
        "summary": {
            figure: plain(summary.median(getattr(this, figure) for this in rounds))
            for figure in (
                "capacity_per_s",
                "offered_per_s",
                "goodput_per_s",
                "goodput_over_capacity",
                "goodput_over_engine",
                "accepted_p99_ms",
                "refused_p99_ms",
                "expired_p99_ms",
                "memory_growth_mb",
            )
        },
        "caveats": plain(summary.caveats(closed)),
    }


def _overload(
    bench: Bench, server: Server, work: Work, number: int, capacity_per_s: float, engine_per_s: float
) -> Overloaded:
    plan = bench.plan
    rate_per_s = capacity_per_s * plan.overload_factor
    due_s = open_loop.poisson(rate_per_s, plan.warm_up_s + plan.overload_s, bench.rng)
    requests = [request(body, {"X-Timeout-Ms": f"{plan.deadline_ms:g}"}) for body in work.bodies]
    pids, memory_mb, begun_s = server.pids, [], time.perf_counter()

    async def watch_memory() -> None:
        while True:
            memory_mb.append((time.perf_counter() - begun_s, machine.resident_mb(pids)))
            await asyncio.sleep(MEMORY_EVERY_S)

    with bench.watch(server) as watch, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        own_s = time.process_time()
        offered = runner.run(
            open_loop.offer(server.port, requests, due_s, connections=plan.overload_connections, beside=watch_memory)
        )
        watch.generator_cpu_s = time.process_time() - own_s
    bench.say(f"overload {number}: {rate_per_s:.0f}/s offered to a capacity of {capacity_per_s:.0f}/s")
    return _told(bench, number, capacity_per_s, engine_per_s, offered, memory_mb, watch.usage)


def _told(
    bench: Bench,
    number: int,
    capacity_per_s: float,
    engine_per_s: float,
    offered: Offered,
    memory_mb: list[tuple[float, float]],
    usage: Usage,
) -> Overloaded:
    plan = bench.plan
    counts = offered.due_s >= plan.warm_up_s  # the others are warm-up
    status, latency_ms = offered.status[counts], offered.latency_s[counts] * 1000
    accepted, refused, expired = (latency_ms[status == code] for code in (200, 503, 504))
    goodput_per_s = int((accepted <= plan.deadline_ms).sum()) / plan.overload_s
    late_p99_ms = _percentile(offered.late_s[counts] * 1000, 99)
    names = {NO_ANSWER: "none", NOT_SENT: "not_sent"}
    codes, numbers = np.unique(status, return_counts=True)
    quarter = max(1, len(memory_mb) // 4)
    used_mb = [mb for _, mb in memory_mb]
    return Overloaded(
        round=number,
        capacity_per_s=capacity_per_s,
        offered_per_s=len(status) / plan.overload_s,
        seconds=plan.overload_s,
        statuses={names.get(int(code), str(code)): int(n) for code, n in zip(codes, numbers, strict=True)},
        goodput_per_s=goodput_per_s,
        goodput_over_capacity=goodput_per_s / capacity_per_s,
        goodput_over_engine=goodput_per_s / engine_per_s,
        accepted_p50_ms=_percentile(accepted, 50),
        accepted_p99_ms=_percentile(accepted, 99),
        refused_p50_ms=_percentile(refused, 50),
        refused_p99_ms=_percentile(refused, 99),
        expired_p99_ms=_percentile(expired, 99),
        refusals_with_retry_after=float(offered.has_retry_after[counts][status == 503].mean()) if len(refused) else 0.0,
        late_p99_ms=late_p99_ms,
        connections=offered.connections,
        faults=offered.faults,
        memory_mb=memory_mb,
        memory_growth_mb=float(np.mean(used_mb[-quarter:]) - np.mean(used_mb[:quarter])),
        usage=usage,
        bound_by=usage.bound_by(CAUSEWAY.workers),
        is_generator_late=late_p99_ms > LATE_MS or "not_sent" in {names.get(int(code)) for code in codes},
    )


def _percentile(values: NDArray[np.float64], q: float) -> float:
    return float(np.percentile(values, q)) if len(values) else float("nan")
