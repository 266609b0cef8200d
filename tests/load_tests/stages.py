"""Stages and results of load tests that never happened, for tests of what is said about them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from load_tests.objective import Objective
from load_tests.result import Options, Repeat, Result
from load_tests.stage import Latency, ServerSide, Stage, Usage
from load_tests.verdict import is_generator_limited, judge, sentence

OBJECTIVE = Objective()
FACTORS = (0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.5, 2.0, 2.2)
"""Of the capacity: the rates of a `ramp`."""


def latency(p99_ms: float = 20.0) -> Latency:
    """One whose p99 is that."""
    return Latency(p99_ms / 4, p99_ms / 5, p99_ms / 2, p99_ms, 1.5 * p99_ms, 2 * p99_ms)


def usage(server: float | None = 0.3, generator: float = 0.2, machine: float = 0.3) -> Usage:
    """Of a server and a generator with one process each."""
    return Usage(server, server, generator, generator, machine, 120.0)


def stage(
    rate: float = 1_000,
    *,
    p99_ms: float | None = 20.0,
    refused: int = 0,
    failed: int = 0,
    wrong: int = 0,
    unsent: int = 0,
    seconds: float = 10.0,
    rows: float = 1.0,
    **changes: Any,
) -> Stage:
    """A stage in which all went well but for what is said; `changes` replace fields."""
    due = round(rate * seconds)
    right = due - refused - failed - wrong - unsent if p99_ms is not None else 0
    good = right if p99_ms is not None and p99_ms <= OBJECTIVE.p99_ms else right // 2
    made = Stage(
        rate=rate,
        rows=rows,
        warm_up_s=2.0,
        seconds=seconds,
        due=due,
        right=right,
        refused=refused,
        failed=failed,
        wrong=wrong,
        unsent=unsent,
        good=good,
        good_rows=round(good * rows),
        sent=due - unsent,
        late_p99_ms=0.2,
        connections=64,
        latency=None if p99_ms is None else latency(p99_ms),
        refusal_p99_ms=3.0 if refused else None,
        faults={},
        usage=usage(),
        server_side=ServerSide(
            queue_ms=1.0,
            compute_ms=2.0,
            batch_rows=4.0 * rows,
            refusals={"overloaded": float(refused)} if refused else {},
        ),
    )
    return msgspec.structs.replace(made, **changes)


def under(load: float, capacity: float = 1_000.0, **changes: Any) -> Stage:
    """A stage at `load` times the capacity of a server that keeps to its objective up to it, and refuses the rest."""
    rate = load * capacity
    refused = round(10 * max(0.0, rate - capacity))
    p99_ms = 20.0 if load < 1 else 90.0
    defaults = {"usage": usage(server=min(0.99, 0.99 * load), generator=0.2 * load)}
    return stage(rate, p99_ms=p99_ms, refused=refused, **(defaults | changes))


def ramp(capacity: float = 1_000.0, **changes: Any) -> list[Stage]:
    """Stages up to more than twice the capacity; the first that fails is the one at 1.1 times it."""
    return [under(load, capacity, **changes) for load in FACTORS]


def repeat(capacity: float = 1_000.0, **changes: Any) -> Repeat:
    """A `ramp` with its verdict."""
    return judge(ramp(capacity, **changes), OBJECTIVE)


def result(name: str = "default", repeats: Sequence[Repeat] | None = None, **changes: Any) -> Result:
    """Of three repeats, where nothing else is said; `changes` replace fields, those of the options among them."""
    repeats = list(repeats or [repeat(capacity) for capacity in (1_000.0, 1_020.0, 990.0)])
    options = Options(
        url="http://127.0.0.1:3000",
        model="fraud:abc",
        settings={"CAUSEWAY_WORKERS": "1"},
        shape="ramp",
        arrivals="poisson",
        mix={"one": 1.0},
        rows={"one": 1},
        stage_s=10.0,
        warm_up_s=2.0,
        seed=0,
        repeats=len(repeats),
        generators=1,
    )
    asked = {name: changes.pop(name) for name in options.__struct_fields__ if name in changes}
    made = Result(
        name=name,
        at="2026-01-01T00:00:00Z",
        circumstances={"commit": "0" * 40, "cpu": "A processor", "cores": 2, "seed": 0},
        options=msgspec.structs.replace(options, **asked),
        objective=OBJECTIVE,
        repeats=repeats,
        says=sentence(repeats, OBJECTIVE),
        is_generator_limited=is_generator_limited(repeats),
        generator_us=30.0,
    )
    return msgspec.structs.replace(made, **changes)
