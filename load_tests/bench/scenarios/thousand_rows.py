"""Many rows in one body: what is left of the engine's rows/s once JSON has been read and written."""

from __future__ import annotations

from typing import Any

from load_tests.bench import summary
from load_tests.bench.bench import Bench, plain
from load_tests.bench.peers import BENTOML_BATCHABLE, CAUSEWAY


def run(bench: Bench) -> dict[str, Any]:
    """Rows a second of each contestant, beside ONNX Runtime in process at that batch size in the same rounds."""
    plan, model = bench.plan, bench.reference
    work = model.work(plan.many_rows)
    # BentoML's batching refuses a request of more rows than its max_batch_size, 100 by default.
    peers = [peer for peer in bench.peers if peer != BENTOML_BATCHABLE]
    servers = bench.serve(peers, model, work)
    bench.warm_up(servers, work, plan.many_connections)
    engine, runs, engine_rows_per_s = bench.engine(model), [], {}
    for number in bench.rounds():
        engine_rows_per_s[number] = engine.rows_per_s(plan.many_rows, plan.run_s / 3)
        runs += [
            bench.measure(server, work, number, plan.many_connections, plan.many_run_s)
            for server in bench.in_order(servers)
        ]
    bench.check(servers, model, work)
    runs = bench.kept(runs)
    over_engine = {
        server.peer.name: summary.over([run for run in runs if run.contestant == server.peer.name], engine_rows_per_s)
        for server in servers
    }
    return {
        "runs": plain(runs),
        "engine_rows_per_s": plain(engine_rows_per_s),
        "summary": plain(summary.medians(runs)),
        "rows_per_s_over_engine": plain(over_engine),
        "causeway_over": plain(summary.against(runs, CAUSEWAY.name, ("rows_per_s", "p99_ms", "server_cpu_us"))),
        "caveats": plain(summary.caveats(runs)),
    }
