"""Another champion in the middle of full load: what callers notice of it, and whether an answer is lost or wrong.

Each round has a second with a swap and one without. Then swaps go on while a client that looks at every answer keeps
the server busy: an answer is right when its predictions are those of the version that it names.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import uvloop

from load_tests import machine
from load_tests.bench import checks, summary
from load_tests.bench.bench import Bench, rounds
from load_tests.bench.operator import Operator, after, operated
from load_tests.bench.peers import CAUSEWAY
from load_tests.bench.run import Run
from load_tests.bench.serving import Server
from load_tests.bench.work import Model, Work
from load_tests.open_loop.client import Answer, Connection, request

TWO = replace(CAUSEWAY, workers=2, is_pinned=False, variables={"CAUSEWAY_WORKERS": "2"})
SWAPPED = "causeway_swapped"
BEGINS_AT = 0.3
"""The place of a swap in its second, which is over before the second is."""

EVERY_S = 0.1
"""Between two swaps while every answer is checked."""

LIMIT_S = 300.0
"""For all of these."""


@dataclass(frozen=True)
class Checked:
    """Answers that were looked at while versions were swapped."""

    answers: int
    per_s: float
    wrong: int
    faults: list[tuple[str, int]]
    """What was wrong, in sentences, and how often; the most frequent."""
    versions: dict[str, int]
    """Answers by the version that they name."""
    swaps: int
    swaps_seen: summary.Spread
    """How often the version changed for each caller: once for a swap, where none went back and forth."""


def run(bench: Bench) -> dict[str, Any]:
    """Latency in a second with a swap over one without, how long a swap takes, and what was lost, wrong or kept."""
    plan, versions = bench.plan, bench.versions
    work, folder = versions[0].work(1), versions[0].folder
    peers = operated(CAUSEWAY, "causeway_operated", folder), operated(TWO, "causeway_of_two", folder)
    servers = bench.serve(peers, versions[0], work)
    if len(servers) < len(peers):
        return {}
    bench.warm_up(servers, work, plan.swap_connections)
    (one, two), (operator, operator_of_two) = servers, (Operator(server.peer, versions) for server in servers)
    runs: list[Run] = []
    resident_mb: list[float] = []
    for number in rounds(plan.swap_rounds):
        in_order = operator, None
        runs += [_second(bench, one, work, number, in_order[place]) for place in bench.rng.permutation(2)]
        if number in (plan.first_swaps, plan.swap_rounds):
            bench.settle()
            resident_mb.append(machine.resident_mb(one.pids))
    of_two = [_second(bench, two, work, number, operator_of_two) for number in rounds(plan.two_workers_swaps)]
    checked = _checked(bench, one, versions, operator)
    operator.swap_back()
    operator_of_two.swap_back()
    bench.check(versions[0], work)
    swapped = [run for run in (*runs, *of_two) if run.contestant == SWAPPED]
    return {
        **bench.told(runs, SWAPPED),
        "unanswered": sum(run.load.requests - run.load.answers_200 for run in swapped),
        "longest_promote_s": operator.longest_s("promote"),
        "longest_rollback_s": operator.longest_s("rollback"),
        "longest_of_two_workers_s": operator_of_two.longest_s(),
        "swap_s": [done.seconds for done in operator.done],
        "resident_mb": resident_mb,
        "resident_over_first": resident_mb[-1] / resident_mb[0],
        "checked": checked,
        "runs_of_two_workers": of_two,
    }


def _second(bench: Bench, server: Server, work: Work, number: int, operator: Operator | None) -> Run:
    """Load with a swap in the middle of it, or without one."""
    plan = bench.plan
    if operator is None:
        return bench.measure(server, work, number, plan.swap_connections, plan.run_s)
    beside = after(BEGINS_AT * plan.run_s, operator.swap)
    run = bench.measure(server, work, number, plan.swap_connections, plan.run_s, beside=beside)
    return replace(run, contestant=SWAPPED)


def _checked(bench: Bench, server: Server, versions: Sequence[Model], operator: Operator) -> Checked:
    """Swaps under the load of a client that checks every answer; it asks only what tells the versions apart."""
    works = {version.tag: version.work(1) for version in versions}
    by_body = zip(*(work.expected for work in works.values()), strict=True)
    expected = [dict(zip(works, predictions, strict=True)) for predictions in by_body]
    apart = [place for place, right in enumerate(expected) if checks.are_apart(right.values())]
    requests = [request(works[versions[0].tag].bodies[place]) for place in apart]
    assert requests, "no row tells the versions apart"

    def swap() -> None:
        for _ in range(bench.plan.checked_swaps):
            time.sleep(EVERY_S)
            operator.swap()
        time.sleep(EVERY_S)

    begun = time.perf_counter()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        callers = runner.run(_ask_during(swap, server.port, requests, bench.plan.swap_connections))
    seconds = time.perf_counter() - begun
    faults = [checks.fault_of_named(answer, expected[apart[place]]) for caller in callers for place, answer in caller]
    tags = [[checks.named(answer) for _, answer in caller] for caller in callers]
    told = Checked(
        answers=len(faults),
        per_s=len(faults) / seconds,
        wrong=len(faults) - faults.count(None),
        faults=Counter(fault for fault in faults if fault is not None).most_common(3),
        versions=dict(Counter(itertools.chain(*tags))),
        swaps=bench.plan.checked_swaps,
        swaps_seen=summary.spread(sum(a != b for a, b in itertools.pairwise(each)) for each in tags),
    )
    bench.say(f"swaps: {told.wrong} of {told.answers} answers wrong in {told.swaps} swaps")
    return told


async def _ask_during(
    action: Callable[[], None], port: int, requests: Sequence[bytes], at_once: int
) -> list[list[tuple[int, Answer]]]:
    """By caller the places of `requests` and their answers, in turn and over and over until `action` is done."""
    acting = asyncio.get_running_loop().run_in_executor(None, action)

    async def caller(place: int) -> list[tuple[int, Answer]]:
        connection, answers = await Connection.open(port), []
        while not acting.done():
            place = (place + 1) % len(requests)
            if not connection.is_open:
                connection = await Connection.open(port)
            answers.append((place, await connection.ask(requests[place])))
        connection.close()
        return answers

    async with asyncio.timeout(LIMIT_S):
        callers = await asyncio.gather(*(caller(number) for number in range(at_once)))
    await acting
    return callers
