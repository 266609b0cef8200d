"""A dear model, one row in each request: whether a server gathers rows as well as the engine could use them."""

from __future__ import annotations

from typing import Any

from load_tests.bench import summary
from load_tests.bench.bench import Bench, rounds
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.run import Run


def run(bench: Bench) -> dict[str, Any]:
    """Causeway's rows a second, beside the engine's in process at its best batch size in the same rounds."""
    plan, model = bench.plan, bench.dear
    work, engine = model.work(1), bench.engine(model)
    servers = bench.serve([CAUSEWAY], model, work)
    bench.warm_up(servers, work, plan.some_connections)
    curve = engine.curve(plan.engine_batches, plan.engine_s / 2)
    best = max(curve, key=lambda size: curve[size])
    runs: list[Run] = []
    best_per_s: dict[int, float] = {}
    for number in rounds(plan.few_rounds):
        best_per_s[number] = engine.rows_per_s(best, plan.engine_s)
        runs += [bench.measure(server, work, number, plan.some_connections, plan.dear_run_s) for server in servers]
    bench.check(model, work)
    told = bench.told(runs, CAUSEWAY.name)
    return {
        "model": model.facts,
        "engine_rows_per_s_by_batch": curve,
        "engine_ms_a_row_alone": 1000 / curve[min(curve)],
        "engine_ms_a_row_at_best": 1000 / curve[best],
        "best_batch": best,
        "engine_rows_per_s": best_per_s,
        "over_engine": summary.over_engine(told["runs"], best_per_s),
        **told,
    }
