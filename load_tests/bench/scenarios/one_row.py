"""One row in each request, one worker: every contestant at few, some and many connections."""

from __future__ import annotations

from typing import Any

from load_tests.bench import summary
from load_tests.bench.bench import Bench, plain
from load_tests.bench.peers import CAUSEWAY


def run(bench: Bench) -> dict[str, Any]:
    """Requests a second, latency, CPU a request and memory, of each contestant and in ratio to Causeway's."""
    work = bench.reference.work(1)
    servers = bench.serve(bench.peers, bench.reference, work)
    bench.warm_up(servers, work, bench.plan.connections[0])
    runs = [
        bench.measure(server, work, number, connections)
        for number in bench.rounds()
        for connections in bench.plan.connections
        for server in bench.in_order(servers)
    ]
    bench.check(servers, bench.reference, work)
    runs = bench.kept(runs)
    return {
        "runs": plain(runs),
        "summary": plain(summary.medians(runs)),
        "causeway_over": plain(summary.against(runs, CAUSEWAY.name, ("requests_per_s", "p99_ms", "server_cpu_us"))),
        "caveats": plain(summary.caveats(runs)),
    }
