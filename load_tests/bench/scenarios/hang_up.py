"""Clients of the dear model that send one row each and close at once: what their rows still cost, and what leaks.

In each round as many clients first send and wait for their answers, so that the CPU spent on those who hung up can be
told as a share of what answering them costs.
"""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from load_tests.bench import client, machine, summary
from load_tests.bench.bench import Bench, plain
from load_tests.bench.client import Answer, Connection
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.serving import Server
from load_tests.bench.work import Work

PATIENT = {"X-Timeout-Ms": "30000"}
QUIET_AFTER_S = 60.0
"""How long the server may take until it is quiet again."""


@dataclass(frozen=True)
class Held:
    """What the server's processes hold."""

    open_files: int
    threads: int
    resident_mb: float


@dataclass(frozen=True)
class HungUp:
    """One round."""

    round: int
    clients: int
    waited_statuses: dict[str, int]
    """Answers to those who waited, by status; `none` for those that never came."""
    waited_cpu_s: float
    """CPU of the server for those who waited."""
    hung_up_cpu_s: float
    """CPU of the server for those who hung up, until it was quiet again."""
    hung_up_over_waited: float
    """1 when all their rows were computed; what is left without them is the cost of reading requests."""
    next_answer_ms: float
    """How long the next caller waited, who came when the last of them had hung up."""
    next_status: int
    quiet_after_s: float
    is_quiet: bool
    before: Held
    after: Held
    """Before the clients of this round and after them, when the server was quiet."""
    counters: dict[str, float]
    """By how much the server's own counters grew over the hang-up and the one call after it."""


def run(bench: Bench) -> dict[str, Any]:
    """CPU that those who hung up cost, beside those who waited, and what the server holds afterwards."""
    model = bench.dear
    work = model.work(1)
    servers = bench.serve([CAUSEWAY], model, work)
    numbers = bench.rounds(bench.plan.hang_up_rounds)
    rounds = [_hang_up(bench, server, work, number) for number in numbers for server in servers]
    bench.check(servers, model, work)
    return {
        "rounds": plain(rounds),
        "summary": {
            "hung_up_over_waited": plain(summary.median(this.hung_up_over_waited for this in rounds)),
            "next_answer_ms": plain(summary.median(this.next_answer_ms for this in rounds)),
            "growth_over_rounds": plain(_growth(rounds)),
        },
    }


def _hang_up(bench: Bench, server: Server, work: Work, number: int) -> HungUp:
    requests = [client.request(body, PATIENT) for body in work.bodies]
    n = bench.plan.hang_up_clients
    bench.settle(QUIET_AFTER_S)
    before = _held(server)

    cpu_s = machine.cpu_s(server.pids)
    waited = asyncio.run(_wait_for_answers(server.port, requests, n))
    bench.settle(QUIET_AFTER_S)
    waited_cpu_s = machine.cpu_s(server.pids) - cpu_s

    counters, cpu_s = _counters(server.port), machine.cpu_s(server.pids)
    begun = asyncio.run(_send_and_close(server.port, requests, n))
    answer = client.ask(server.port, requests[0], timeout_s=QUIET_AFTER_S)
    quiet_after_s, is_quiet = bench.settle(QUIET_AFTER_S)
    hung_up_cpu_s = machine.cpu_s(server.pids) - cpu_s
    grown = {name: value - counters.get(name, 0.0) for name, value in _counters(server.port).items()}

    statuses = Counter(str(answer.status or "none") for answer in waited)
    result = HungUp(
        round=number,
        clients=n,
        waited_statuses=dict(statuses),
        waited_cpu_s=waited_cpu_s,
        hung_up_cpu_s=hung_up_cpu_s,
        hung_up_over_waited=hung_up_cpu_s / max(waited_cpu_s, machine.TICK_S),
        next_answer_ms=(answer.at_s - begun) * 1000,
        next_status=answer.status,
        quiet_after_s=quiet_after_s,
        is_quiet=is_quiet,
        before=before,
        after=_held(server),
        counters={name: value for name, value in grown.items() if value},
    )
    bench.say(f"hang_up {number}: CPU {result.hung_up_over_waited:.2f} of that for {n} who waited")
    return result


def _growth(rounds: Sequence[HungUp]) -> dict[str, float]:
    """What the server holds after the last round more than after the first; the first fills pools and caches."""
    if not rounds:
        return {}
    first, last = rounds[0].after, rounds[-1].after
    return {
        "open_files": last.open_files - first.open_files,
        "threads": last.threads - first.threads,
        "resident_mb": last.resident_mb - first.resident_mb,
    }


async def _wait_for_answers(port: int, requests: Sequence[bytes], n: int) -> list[Answer]:
    connections = [await Connection.open(port) for _ in range(n)]
    answers = await asyncio.gather(
        *(connection.ask(requests[place % len(requests)]) for place, connection in enumerate(connections))
    )
    for connection in connections:
        connection.close()
    return answers


async def _send_and_close(port: int, requests: Sequence[bytes], n: int) -> float:
    """The clients connect, then all send, then all close; the time at which the last one has."""
    connections = [await Connection.open(port) for _ in range(n)]
    for place, connection in enumerate(connections):
        connection.send(requests[place % len(requests)], lambda _: None)
    for connection in connections:
        connection.close()
    await asyncio.sleep(0)  # the sockets are closed in the loop's next turn
    return time.perf_counter()


def _held(server: Server) -> Held:
    pids = server.pids
    return Held(machine.open_files(pids), machine.threads(pids), machine.resident_mb(pids))


def _counters(port: int) -> dict[str, float]:
    """The server's Prometheus counters by name and labels; none where it has no /metrics."""
    try:
        with urllib.request.urlopen(f"http://{client.HOST}:{port}/metrics", timeout=10) as response:
            text = response.read().decode()
    except OSError:
        return {}
    return {name: float(value) for name, value in re.findall(r"^(\S*_total(?:\{[^\n]*\})?) (\S+)$", text, re.MULTILINE)}
