"""Somebody asks /livez while the server reads a body of 50 MB that somebody else sends."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.client import HTTPConnection
from typing import Any

import numpy as np

from load_tests.bench import summary
from load_tests.bench.bench import Bench, rounds
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.serving import Server
from load_tests.bench.work import body
from load_tests.open_loop.client import HOST

MB = 1_000_000
LIBERAL = replace(
    CAUSEWAY,
    name="causeway_liberal",
    variables={"CAUSEWAY_MAX_BODY_BYTES": str(512 * MB), "CAUSEWAY_MAX_ROWS": str(10**7)},
)
EVERY_S = 0.05
"""So that a stall of 50 ms is always seen, and asking is not itself the load: at 200 a second the questions queued
behind each other, while none of them took 30 ms."""


@dataclass(frozen=True)
class Asked:
    """/livez over some seconds; latencies from when each request was due."""

    n: int
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True)
class Round:
    """One round: /livez beside the large body, and the same long without it."""

    body_status: int
    body_s: float
    """From its first byte until its answer had come."""
    beside: Asked
    alone: Asked


def run(bench: Bench) -> dict[str, Any]:
    """Latency of /livez while a large body is sent, read, scored and answered, and without one."""
    model = bench.reference
    work = model.work(1)
    rows = model.X[: bench.plan.many_rows]
    large = body(np.tile(rows, (1 + bench.plan.large_body_bytes // len(body(rows)), 1)))
    done: list[Round] = []
    for server in bench.serve([LIBERAL], model, work):
        for number in rounds(bench.plan.few_rounds):
            done.append(_round(bench, server, large))
            bench.say(f"livez {number}: at most {done[-1].beside.max_ms:.0f} ms, alone {done[-1].alone.max_ms:.0f} ms")
    bench.check(model, work)
    return {
        "body_bytes": len(large),
        "beside_p99_ms": summary.spread(this.beside.p99_ms for this in done),
        "beside_max_ms": summary.spread(this.beside.max_ms for this in done),
        "alone_p99_ms": summary.spread(this.alone.p99_ms for this in done),
        "alone_max_ms": summary.spread(this.alone.max_ms for this in done),
        "rounds": done,
    }


def _round(bench: Bench, server: Server, large: bytes) -> Round:
    bench.settle()
    statuses: list[int] = []
    sender = threading.Thread(target=lambda: statuses.append(_post(server.port, large)))
    begun = time.perf_counter()
    sender.start()
    beside = _ask_while(server.port, sender.is_alive)
    body_s = time.perf_counter() - begun
    bench.settle()
    over = time.perf_counter() + body_s
    alone = _ask_while(server.port, lambda: time.perf_counter() < over)
    return Round(statuses[0], body_s, beside, alone)


def _post(port: int, large: bytes) -> int:
    """The status of the answer to a large body."""
    connection = HTTPConnection(HOST, port, timeout=60)
    connection.request("POST", "/predict", large, {"Content-Type": "application/json", "X-Timeout-Ms": "30000"})
    response = connection.getresponse()
    response.read()
    connection.close()
    return response.status


def _ask_while(port: int, goes_on: Callable[[], bool]) -> Asked:
    """GET /livez on one connection, due every `EVERY_S`; one that has to wait for its forerunner is late itself."""
    connection, due = HTTPConnection(HOST, port, timeout=60), time.perf_counter()
    latency_ms: list[float] = []
    while goes_on() or not latency_ms:
        time.sleep(max(0.0, due - time.perf_counter()))
        connection.request("GET", "/livez")
        response = connection.getresponse()
        response.read()
        assert response.status == 200, f"/livez answers {response.status}"
        latency_ms.append((time.perf_counter() - due) * 1000)
        due += EVERY_S
    connection.close()
    return Asked(len(latency_ms), *np.percentile(latency_ms, (50, 99, 100)).tolist())
