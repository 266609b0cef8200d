"""Two workers against one, when both may use every core and so may the load generator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from load_tests.bench.bench import Bench, rounds
from load_tests.bench.peers import CAUSEWAY

ONE = replace(CAUSEWAY, name="one_worker", is_pinned=False)
TWO = replace(ONE, name="two_workers", workers=2, variables={"CAUSEWAY_WORKERS": "2"})


def run(bench: Bench) -> dict[str, Any]:
    """Requests a second of two workers over those of one, and how much of the machine was left."""
    work, connections = bench.reference.work(1), bench.plan.some_connections
    servers = bench.serve((ONE, TWO), bench.reference, work)
    bench.warm_up(servers, work, connections)
    runs = [
        bench.measure(server, work, number, connections, bench.plan.run_s)
        for number in rounds(bench.plan.rounds)
        for server in bench.in_order(servers)
    ]
    bench.check(bench.reference, work)
    return bench.told(runs, TWO.name)
