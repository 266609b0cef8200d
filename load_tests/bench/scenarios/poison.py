"""One row in a batch of 16 makes the engine fail for the batch: whether the other 15 callers get their answers.

While a request of many rows keeps the model busy, 16 callers send a row each, one of them poisoned, so that all
16 wait and a server that batches takes them together.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from load_tests import metrics
from load_tests.bench.bench import Bench
from load_tests.bench.checks import first_fault
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.serving import Server
from load_tests.bench.work import Work, body
from load_tests.forest import POISON
from load_tests.open_loop.client import Answer, Connection, request

GROUP = 16
BUSY_ROWS = 200
"""Rows of the request that keeps the model busy, for some 10 ms."""
BUSY_S = 0.002
"""Head start of that request."""
PATIENT = {"X-Timeout-Ms": "10000"}
_ROWS = re.compile(rb'"(\d+) rows')


def run(bench: Bench) -> dict[str, Any]:
    """Right answers among the innocent, what the guilty got, and what the server says of the batches."""
    model = bench.brittle
    work = model.work(1)
    told: dict[str, Any] = {}
    for server in bench.serve([CAUSEWAY], model, work):
        before = metrics.series(server.url)
        callers = asyncio.run(_groups(bench, server, work))
        after = metrics.series(server.url)
        told = {
            "groups": bench.plan.poison_groups,
            "innocent": len(callers.faults),
            "right_share": callers.faults.count(None) / len(callers.faults),
            "faults": Counter(fault for fault in callers.faults if fault is not None).most_common(3),
            "guilty_statuses": dict(Counter(str(answer.status or "none") for answer in callers.guilty)),
            "guilty_example": callers.guilty[0].body.decode(errors="replace")[:300],
            "in_batch_of_16": _share_in_batch(callers.calm),
            "server_timing_example": (callers.calm[-1].header(b"server-timing") or b"").decode(),
            "counters": metrics.growth(before, after),
        }
        bench.say(f"poison: {told['right_share']:.4f} of the innocent right, the guilty {told['guilty_statuses']}")
    bench.check(model, work)
    return told


@dataclass(frozen=True)
class Callers:
    """All groups' callers."""

    faults: list[str | None] = field(default_factory=list)
    """Of each innocent caller's answer, in a sentence; None: it is right."""
    guilty: list[Answer] = field(default_factory=list)
    calm: list[Answer] = field(default_factory=list)
    """The answers to as many groups that had no poisoned row."""


async def _groups(bench: Bench, server: Server, work: Work) -> Callers:
    X, callers = bench.brittle.X, Callers()
    poisoned = X[:1].copy()
    poisoned[0, 0] = POISON
    bad, busy = request(body(poisoned), PATIENT), request(body(X[:BUSY_ROWS]), PATIENT)
    good = [request(each, PATIENT) for each in work.bodies]
    first, *others = [await Connection.open(server.port) for _ in range(1 + GROUP)]
    for _ in range(bench.plan.poison_groups):
        rows = bench.rng.integers(len(good), size=GROUP).tolist()
        asked = [good[row] for row in rows]
        callers.calm.extend(await _together(first, busy, others, asked))
        place = int(bench.rng.integers(GROUP))
        asked[place] = bad
        answers = await _together(first, busy, others, asked)
        callers.guilty.append(answers.pop(place))
        expected = [work.expected[row] for row in rows]
        del expected[place]
        pairs = zip(answers, expected, strict=True)
        callers.faults.extend(first_fault([answer], [right]) for answer, right in pairs)
    for connection in (first, *others):
        connection.close()
    return callers


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


def _share_in_batch(answers: Sequence[Answer]) -> float | None:
    """The share of answers whose Server-Timing tells of `GROUP` rows or more; None where it tells of no rows."""
    found = [_ROWS.search(answer.header(b"server-timing") or b"") for answer in answers]
    sizes = [int(match[1]) for match in found if match is not None]
    return sum(size >= GROUP for size in sizes) / len(sizes) if sizes else None
