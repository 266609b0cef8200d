"""A dear model, one row in each request: whether a server gathers rows as well as the engine could use them."""

from __future__ import annotations

from typing import Any

from load_tests.bench import summary
from load_tests.bench.bench import Bench, plain
from load_tests.bench.peers import CAUSEWAY


def run(bench: Bench) -> dict[str, Any]:
    """Causeway's rows a second, beside the engine's in process in the same rounds.

    `over_best`: at the batch size that suits the engine best; `over_best_that_fits`: at the best one that the
    connections can fill with one row each.
    """
    plan, model = bench.plan, bench.dear
    work = model.work(1)
    servers = bench.serve([CAUSEWAY], model, work)
    bench.warm_up(servers, work, plan.dear_connections)
    best, fitting = bench.best_batch(), bench.best_batch(plan.dear_connections)
    best_per_s: dict[int, float] = {}
    fitting_per_s: dict[int, float] = {}
    one_per_s: dict[int, float] = {}
    runs = []
    for number in bench.rounds():
        for rates, size in ((one_per_s, 1), (fitting_per_s, fitting), (best_per_s, best)):
            rates[number] = bench.dear_engine.rows_per_s(size, plan.run_s / 3)
        runs += [bench.measure(server, work, number, plan.dear_connections) for server in servers]
    bench.check(servers, model, work)
    runs = bench.kept(runs)
    return {
        "model": plain(model.facts),
        "best_batch": best,
        "best_batch_that_fits": fitting,
        "engine_rows_per_s_by_batch": plain(bench.dear_curve),
        "engine_rows_per_s": {"one": plain(one_per_s), "best": plain(best_per_s), "that_fits": plain(fitting_per_s)},
        "engine_ms_for_one_row": plain(summary.median(1000 / rate for rate in one_per_s.values())),
        "runs": plain(runs),
        "summary": plain(summary.medians(runs)),
        "over_best": plain(summary.over(runs, best_per_s)),
        "over_best_that_fits": plain(summary.over(runs, fitting_per_s)),
        "caveats": plain(summary.caveats(runs)),
    }
