"""A shadow beside the champion: whether callers notice it at a moderate load, and what becomes of it at full load.

Each round measures a closed loop with the shadow and one without, and then an open loop with a share of what the latter
answered, with the same arrivals without the shadow and with it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from load_tests import metrics
from load_tests.bench import summary
from load_tests.bench.bench import Bench, rounds
from load_tests.bench.operator import Operator, operated
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.run import Run
from load_tests.bench.serving import Server
from load_tests.bench.work import Work
from load_tests.open_loop import arrivals, generator
from load_tests.open_loop.client import request

SHADOWED = "causeway_shadowed"
CONNECTIONS = 512
"""Most connections of the open loop; a request that finds none free counts as one without a 200."""

RESULTS = ("scored", "dropped", "failed")
"""What becomes of a row that is offered to the shadow."""


@dataclass(frozen=True)
class Moderate:
    """One open loop; latencies from when a request was due, without end where there was no 200."""

    is_shadowed: bool
    offered_per_s: float
    unanswered: int
    """Requests without a 200."""
    p50_ms: float
    p99_ms: float
    late_p99_ms: float
    """How much later than due the generator turned to a request."""
    bound_by: str
    is_disturbed: bool


def run(bench: Bench) -> dict[str, Any]:
    """Latency with the shadow over that without it in the same round, and the share of the rows that it scored."""
    plan, versions = bench.plan, bench.versions
    work = versions[0].work(1)
    closed: list[Run] = []
    opened: list[dict[bool, Moderate]] = []
    rows: dict[str, Counter[str]] = {"full": Counter(), "moderate": Counter()}
    for server in bench.serve([operated(CAUSEWAY, "causeway_operated", versions[0].folder)], versions[0], work):
        operator = Operator(server.peer, versions)
        bench.warm_up([server], work, plan.swap_connections)
        for number in rounds(plan.shadow_rounds):
            order = bench.rng.permutation([True, False]).tolist()
            capacity_per_s = 0.0
            for is_shadowed in order:
                operator.shadow(is_on=is_shadowed)
                before = _rows(server)
                here = bench.measure(server, work, number, plan.swap_connections, plan.run_s)
                if is_shadowed:
                    closed.append(replace(here, contestant=SHADOWED))
                    rows["full"] += _settled_rows(bench, server) - before
                else:
                    closed.append(here)
                    capacity_per_s = here.requests_per_s
            due_s = arrivals.poisson(plan.shadow_factor * capacity_per_s, plan.shadow_s, bench.rng)
            opened.append({})
            for is_shadowed in reversed(order):
                operator.shadow(is_on=is_shadowed)
                before = _rows(server)
                opened[-1][is_shadowed] = moderate(bench, server, work, due_s, is_shadowed=is_shadowed)
                rows["moderate"] += _settled_rows(bench, server) - before
            bench.say(f"shadow {number}: {opened[-1][True].p99_ms:.2f} ms with, {opened[-1][False].p99_ms:.2f} without")
        operator.shadow(is_on=True)
        bench.check(versions[0], work)
        operator.shadow(is_on=False)
    lost = [run.load.requests - run.load.answers_200 for run in closed if run.contestant == SHADOWED]
    return {
        **bench.told(closed, SHADOWED),
        "over": {figure: _over(opened, figure) for figure in ("p50_ms", "p99_ms")},
        "unanswered": sum(lost) + sum(each[True].unanswered for each in opened),
        "scored_share": _scored(rows["moderate"]),
        "scored_share_at_full_load": _scored(rows["full"]),
        "rows": rows,
        "open_loops": [loop for each in opened for loop in each.values()],
    }


def moderate(bench: Bench, server: Server, work: Work, due_s: NDArray[np.float64], *, is_shadowed: bool) -> Moderate:
    """Requests that are due at `due_s`, from now on."""
    bench.settle()
    requests = [request(body) for body in work.bodies]
    with bench.watch(server) as watch:
        offered = generator.offer(server.port, requests, due_s, connections=CONNECTIONS)
        watch.generator_cpu_s = sum(offered.cpu_s)
    is_answered = offered.status == 200
    latency_ms = np.where(is_answered, offered.latency_s * 1000, np.inf)
    p50_ms, p99_ms = np.percentile(latency_ms, (50, 99), method="higher").tolist()
    return Moderate(
        is_shadowed=is_shadowed,
        offered_per_s=len(due_s) / bench.plan.shadow_s,
        unanswered=int((~is_answered).sum()),
        p50_ms=p50_ms,
        p99_ms=p99_ms,
        late_p99_ms=float(np.percentile(offered.late_s * 1000, 99)),
        bound_by=watch.usage.bound_by(server.peer.workers),
        is_disturbed=watch.usage.is_disturbed,
    )


def _over(opened: Sequence[dict[bool, Moderate]], figure: str) -> summary.Spread:
    """A figure with the shadow over that without, spread over the rounds: undisturbed ones, where there are enough."""
    calm = [each for each in opened if not any(loop.is_disturbed for loop in each.values())]
    kept = calm if len(calm) >= summary.ENOUGH else opened
    return summary.spread(getattr(each[True], figure) / getattr(each[False], figure) for each in kept)


def _rows(server: Server) -> Counter[str]:
    """Rows that were offered to the shadow since the server was started, by what became of them."""
    series = metrics.series(server.url)
    rows = {name: value for name, value in series.items() if name.startswith("causeway_shadow_rows_total{")}
    return Counter(
        {result: sum(int(n) for name, n in rows.items() if f'result="{result}"' in name) for result in RESULTS}
    )


def _settled_rows(bench: Bench, server: Server) -> Counter[str]:
    """The same, once the shadow has nothing left to do."""
    bench.settle()
    return _rows(server)


def _scored(rows: Counter[str]) -> float | None:
    """The share of the rows that were scored; None without any."""
    return rows["scored"] / rows.total() if rows.total() else None
