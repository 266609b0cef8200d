"""One row in each request, one worker: every contestant at few, some and many connections."""

from __future__ import annotations

from typing import Any

from load_tests.bench.bench import Bench, rounds
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.plan import Plan
from load_tests.bench.run import Run


def run(bench: Bench) -> dict[str, Any]:
    """Requests a second, latency, CPU a request and memory, of each contestant and Causeway's in ratio to them."""
    plan, work = bench.plan, bench.reference.work(1)
    servers = bench.serve(bench.peers, bench.reference, work)
    bench.warm_up(servers, work, plan.connections[0])
    runs: list[Run] = []
    for number in rounds(plan.rounds):
        for connections in plan.connections:
            able = [server for server in servers if not server.peer.is_slow or _takes_slow(plan, number, connections)]
            for server in bench.in_order(able):
                seconds = plan.slow_run_s if server.peer.is_slow else plan.run_s
                runs.append(bench.measure(server, work, number, connections, seconds))
    bench.check(bench.reference, work)
    return bench.told(runs, CAUSEWAY.name)


def _takes_slow(plan: Plan, number: int, connections: int) -> bool:
    """Whether slow contestants take part in that round at that load."""
    return (number - 1) % plan.slow_every == 0 and connections in plan.slow_connections
