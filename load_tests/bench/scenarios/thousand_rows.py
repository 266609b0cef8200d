"""Many rows in one body: what is left of the engine's rows/s once JSON has been read and written."""

from __future__ import annotations

from typing import Any

from load_tests.bench import summary
from load_tests.bench.bench import Bench, rounds
from load_tests.bench.peers import BENTOML_BATCHABLE, CAUSEWAY
from load_tests.bench.run import Run


def run(bench: Bench) -> dict[str, Any]:
    """Rows a second of each contestant, beside ONNX Runtime in process at that batch size in the same rounds."""
    plan, model = bench.plan, bench.reference
    work, engine = model.work(plan.many_rows), bench.engine(model)
    # BentoML's batching refuses a request of more rows than its max_batch_size, 100 by default.
    servers = bench.serve([peer for peer in bench.peers if peer != BENTOML_BATCHABLE], model, work)
    bench.warm_up(servers, work, plan.many_connections)
    runs: list[Run] = []
    engine_rows_per_s: dict[int, float] = {}
    for number in rounds(plan.few_rounds):
        engine_rows_per_s[number] = engine.rows_per_s(plan.many_rows, plan.engine_s)
        runs += [
            bench.measure(server, work, number, plan.many_connections, plan.many_run_s)
            for server in bench.in_order(servers)
        ]
    bench.check(model, work)
    told = bench.told(runs, CAUSEWAY.name)
    return {
        **told,
        "engine_rows_per_s": engine_rows_per_s,
        "over_engine": summary.over_engine(told["runs"], engine_rows_per_s),
    }
