"""One row in a batch of 16 makes the engine fail for the batch: whether the other 15 callers get their answers.

While a request of a few rows keeps the dear model busy, 16 callers send a row each, one of them poisoned, so that all
16 wait and a server that batches takes them together.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

from load_tests.bench import metrics
from load_tests.bench.bench import Bench
from load_tests.bench.checks import first_fault
from load_tests.bench.client import Answer, Connection, request
from load_tests.bench.forest import POISON
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.serving import Server
from load_tests.bench.work import Work, body

GROUP = 16
BUSY_ROWS = 4
"""Rows of the request that keeps the model busy."""
BUSY_S = 0.002
"""Head start of that request."""
PATIENT = {"X-Timeout-Ms": "10000"}


def run(bench: Bench) -> dict[str, Any]:
    """Right answers among the innocent, what the guilty got, and the server's own counts of batches."""
    model = bench.dear
    work = model.work(1)
    told: dict[str, Any] = {}
    for server in bench.serve([CAUSEWAY], model, work):
        before = metrics.series(server.port)
        innocent, guilty = asyncio.run(_groups(bench, server, work))
        after = metrics.series(server.port)
        told = {
            "groups": bench.plan.poison_groups,
            "innocent": len(innocent),
            "right_share": sum(fault is None for fault in innocent) / len(innocent),
            "faults": Counter(fault for fault in innocent if fault is not None).most_common(3),
            "guilty_statuses": dict(Counter(str(answer.status or "none") for answer in guilty)),
            "guilty_example": guilty[0].body.decode(errors="replace")[:300],
            "batches": metrics.growth(before, after, "causeway_batch"),
        }
        bench.say(f"poison: {told['right_share']:.4f} of the innocent right, the guilty {told['guilty_statuses']}")
    bench.check(model, work)
    return told


async def _groups(bench: Bench, server: Server, work: Work) -> tuple[list[str | None], list[Answer]]:
    """Per innocent caller what was wrong with the answer (None: nothing), and the answers to the guilty."""
    X = bench.dear.X
    busy = request(body(X[:BUSY_ROWS]), PATIENT)
    poisoned = X[:1].copy()
    poisoned[0, 0] = POISON
    bad = request(body(poisoned), PATIENT)
    good = [request(each, PATIENT) for each in work.bodies]
    first, *others = [await Connection.open(server.port) for _ in range(1 + GROUP)]
    innocent: list[str | None] = []
    guilty: list[Answer] = []
    for _ in range(bench.plan.poison_groups):
        place, rows = int(bench.rng.integers(GROUP)), bench.rng.integers(len(good), size=GROUP).tolist()
        asked = [bad if caller == place else good[row] for caller, row in enumerate(rows)]
        answers = await _together(first, busy, others, asked)
        guilty.append(answers[place])
        for caller, row in enumerate(rows):
            if caller != place:
                innocent.append(first_fault([answers[caller]], [work.expected[row]]))
    for connection in (first, *others):
        connection.close()
    return innocent, guilty


async def _together(
    first: Connection, busy: bytes, others: Sequence[Connection], asked: Sequence[bytes]
) -> list[Answer]:
    """The answers to `asked`, sent all at once while `busy` is being computed."""
    occupied = asyncio.ensure_future(first.ask(busy))
    await asyncio.sleep(BUSY_S)
    pairs = zip(others, asked, strict=True)
    answers = await asyncio.gather(*(connection.ask(each) for connection, each in pairs))
    await occupied
    return answers
