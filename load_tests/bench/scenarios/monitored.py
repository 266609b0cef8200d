"""What it costs to know what the model is doing: everything on beside everything off."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from load_tests.bench.bench import Bench, rounds
from load_tests.bench.peers import CAUSEWAY

UNMONITORED = replace(
    CAUSEWAY,
    name="causeway_unmonitored",
    title="Causeway without monitoring",
    variables={"CAUSEWAY_MONITORING": "off"},
)


def run(bench: Bench) -> dict[str, Any]:
    """Requests a second, latency and CPU with monitoring over those without, in the same rounds."""
    plan, work = bench.plan, bench.reference.work(1)
    servers = bench.serve([CAUSEWAY, UNMONITORED], bench.reference, work)
    bench.warm_up(servers, work, plan.monitored_connections[0])
    runs = [
        bench.measure(server, work, number, connections, plan.monitored_s)
        for number in rounds(plan.monitored_rounds)
        for connections in plan.monitored_connections
        for server in bench.in_order(servers)
    ]
    bench.check(bench.reference, work)
    return bench.told(runs, CAUSEWAY.name)
