"""Two workers against one, when both may use every core and so may the load generator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from load_tests.bench import summary
from load_tests.bench.bench import Bench, plain
from load_tests.bench.peers import CAUSEWAY

ONE = replace(CAUSEWAY, name="causeway_1_worker", is_pinned=False)
TWO = replace(ONE, name="causeway_2_workers", workers=2, variables={"CAUSEWAY_WORKERS": "2"})


def run(bench: Bench) -> dict[str, Any]:
    """Requests a second of two workers over those of one, and how much of the machine was left."""
    work, connections = bench.reference.work(1), bench.plan.dear_connections
    servers = bench.serve((ONE, TWO), bench.reference, work)
    bench.warm_up(servers, work, connections)
    runs = [
        bench.measure(server, work, number, connections)
        for number in bench.rounds()
        for server in bench.in_order(servers)
    ]
    bench.check(servers, bench.reference, work)
    runs = bench.kept(runs)
    return {
        "cores": len(bench.cores.all),
        "runs": plain(runs),
        "summary": plain(summary.medians(runs)),
        "two_over_one": plain(summary.against(runs, TWO.name, ("requests_per_s", "p99_ms", "server_cpu_us"))),
        "caveats": plain(summary.caveats(runs)),
    }
