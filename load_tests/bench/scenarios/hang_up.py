"""Clients of the dear model that send one row each and close at once: what their rows still cost, and what leaks.

In each round as many clients first send and wait for their answers, so that the CPU spent on those who hung up can be
told as a share of what answering them costs.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from load_tests import machine, metrics
from load_tests.bench import summary
from load_tests.bench.bench import Bench, rounds
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.serving import Server
from load_tests.bench.work import Work
from load_tests.machine import Held
from load_tests.open_loop import client
from load_tests.open_loop.client import Answer, Connection

PATIENT = {"X-Timeout-Ms": "30000"}
QUIET_AFTER_S = 60.0
"""How long the server may take until it is quiet again."""


@dataclass(frozen=True)
class HungUp:
    """One round."""

    round: int
    waited_statuses: dict[str, int]
    """Answers to those who waited, by status; `none` for those that never came."""
    waited_cpu_s: float
    """CPU of the server for those who waited."""
    hung_up_cpu_s: float
    """CPU of the server for those who hung up and for one call after them, until it was quiet again."""
    next_answer_ms: float
    """How long the next caller waited, who came when the last of them had hung up."""
    next_status: int
    is_quiet: bool
    """Whether it was in the end."""
    held: Held
    """What the server holds then."""
    counters: dict[str, float]
    """By how much its own series grew over the hang-up and the one call after it."""

    @property
    def hung_up_over_waited(self) -> float:
        """1 when all their rows were computed; without them the cost of reading requests is left."""
        return self.hung_up_cpu_s / max(self.waited_cpu_s, machine.TICK_S)

    @property
    def rows_computed(self) -> float | None:
        """Of those who hung up: those in batches that had begun; None where the server does not count rows."""
        rows = self.counters.get("causeway_rows_total")
        return None if rows is None else rows - 1


def run(bench: Bench) -> dict[str, Any]:
    """CPU that those who hung up cost, beside those who waited, and what the server holds afterwards."""
    model = bench.dear
    work = model.work(1)
    done = [
        _hang_up(bench, server, work, number)
        for server in bench.serve([CAUSEWAY], model, work)
        for number in rounds(bench.plan.few_rounds)
    ]
    bench.check(model, work)
    return {
        "hung_up_over_waited": summary.spread(this.hung_up_over_waited for this in done),
        "rows_computed": summary.spread(this.rows_computed for this in done),
        "next_answer_ms": summary.spread(this.next_answer_ms for this in done),
        # The first round fills pools and caches.
        "growth_after_the_first_round": done[-1].held - done[0].held if done else None,
        "rounds": done,
    }


def _hang_up(bench: Bench, server: Server, work: Work, number: int) -> HungUp:
    requests = [client.request(body, PATIENT) for body in work.bodies]
    requests = [requests[place % len(requests)] for place in range(bench.plan.hang_up_clients)]
    bench.settle(QUIET_AFTER_S)
    begun_s = machine.cpu_s(server.pids)
    waited = asyncio.run(_wait_for_answers(server.port, requests))
    bench.settle(QUIET_AFTER_S)
    waited_s, series = machine.cpu_s(server.pids), metrics.series(server.url)
    hung_up_at = asyncio.run(_send_and_close(server.port, requests))
    answer = client.ask(server.port, requests[0], timeout_s=QUIET_AFTER_S)
    is_quiet = bench.settle(QUIET_AFTER_S)
    result = HungUp(
        round=number,
        waited_statuses=dict(Counter(str(answer.status or "none") for answer in waited)),
        waited_cpu_s=waited_s - begun_s,
        hung_up_cpu_s=machine.cpu_s(server.pids) - waited_s,
        next_answer_ms=(answer.at_s - hung_up_at) * 1000,
        next_status=answer.status,
        is_quiet=is_quiet,
        held=machine.held(server.pids),
        counters=metrics.growth(series, metrics.series(server.url)),
    )
    bench.say(f"hang_up {number}: CPU {result.hung_up_over_waited:.2f} of that for those who waited")
    return result


async def _wait_for_answers(port: int, requests: Sequence[bytes]) -> list[Answer]:
    connections = [await Connection.open(port) for _ in requests]
    pairs = zip(connections, requests, strict=True)
    answers = await asyncio.gather(*(connection.ask(request) for connection, request in pairs))
    for connection in connections:
        connection.close()
    return answers


async def _send_and_close(port: int, requests: Sequence[bytes]) -> float:
    """The clients connect, then all send, then all close; the time at which the last one has."""
    connections = [await Connection.open(port) for _ in requests]
    for connection, request in zip(connections, requests, strict=True):
        connection.send(request, lambda _: None)
    for connection in connections:
        connection.close()
    await asyncio.sleep(0)  # the sockets are closed in the loop's next turn
    return time.perf_counter()
