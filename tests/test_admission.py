"""What cannot make its deadline is refused at once, with when to come back; everything else is let in."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway import errors
from causeway.admission import admit
from causeway.batching import PROBE_S, Batcher, Priority
from causeway.cost import Cost
from tests.test_batching import DEAR_S, FAR, HeldEngine, Left, Told, outcomes, rows, run, steady


def busy(
    check: Callable[[HeldEngine, Batcher], Awaitable[None]], n_rows: int = 100, priority: Priority = "interactive"
) -> None:
    """Checks against a batcher of which 10 rows are being computed and `n_rows` wait."""

    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, DEAR_S))
        jobs = [batcher.submit(rows(10), FAR)]
        await engine.begun.acquire()
        jobs.append(batcher.submit(rows(n_rows), FAR, priority))
        await check(engine, batcher)
        for job in jobs:
            batcher.drop(job, Left())
        await outcomes(jobs)
        engine.go_on()
        batcher.close()

    run(main(), collect=False)


def idle(cost: Cost) -> Batcher:
    return Batcher(lambda X: X, cost, Told(), lambda: 0.0)


def test_without_time_left_it_is_too_late() -> None:
    for left_s in (0.0, -1.0):
        with pytest.raises(errors.DeadlineExceeded) as refused:
            admit(idle(Cost(0, 0)), 1, left_s, 250)
        assert refused.value.facts == {"timeout_ms": 250}


@settings(deadline=None)
@given(st.floats(1e-3, 10), st.integers(1, 2000))
def test_where_nothing_waits_rows_are_let_in_that_fit_their_time_and_refused_that_do_not(left_s: float, n: int) -> None:
    batcher = idle(Cost(0, DEAR_S))
    if n * DEAR_S > left_s:
        with pytest.raises(errors.DeadlineUnreachable) as refused:
            admit(batcher, n, left_s, left_s * 1000)
        assert refused.value.facts == {"timeout_ms": left_s * 1000, "needed_ms": round(n * DEAR_S * 1000)}
        assert refused.value.retry_after_s is not None
    elif n * DEAR_S < left_s / 2:
        admit(batcher, n, left_s, left_s * 1000)


def test_a_queue_that_is_too_long_is_told_with_its_length_and_when_to_come_back() -> None:
    async def check(engine: HeldEngine, batcher: Batcher) -> None:
        with pytest.raises(errors.Overloaded) as refused:
            admit(batcher, 1, 0.2, 200)
        assert refused.value.facts == {"timeout_ms": 200, "wait_ms": 12 * 10 * DEAR_S * 1000}  # 111 rows, by tens
        assert refused.value.status == 503
        assert refused.value.retry_after_s == pytest.approx(120 * DEAR_S - 0.2, abs=0.05)
        admit(batcher, 1, 10.0, 10_000)

    busy(check)


@settings(deadline=None)
@given(st.integers(1, 3000), st.floats(0.01, 5))
def test_after_the_time_to_come_back_there_would_be_room(n_rows: int, left_s: float) -> None:
    async def check(engine: HeldEngine, batcher: Batcher) -> None:
        refusal = None
        try:
            admit(batcher, 1, left_s, left_s * 1000)
        except errors.Overloaded as refused:
            refusal = refused
        if refusal is not None and refusal.retry_after_s is not None:
            assert 0 < refusal.retry_after_s < math.inf
            assert batcher.wait_s(1) - refusal.retry_after_s <= left_s
        else:
            assert batcher.wait_s(1) <= left_s

    busy(check, n_rows)


def test_where_predictions_err_much_fewer_are_let_in_behind_others() -> None:
    async def check(engine: HeldEngine, batcher: Batcher) -> None:
        wait_s = batcher.wait_s(1)
        admit(batcher, 1, 1.5 * wait_s, 1500 * wait_s)
        batcher.cost.caution = 2.0
        with pytest.raises(errors.Overloaded):
            admit(batcher, 1, 1.5 * wait_s, 1500 * wait_s)
        admit(batcher, 1, 3.0 * wait_s, 3000 * wait_s)

    busy(check)
    alone = idle(Cost(0, DEAR_S))
    alone.cost.caution = 2.0
    admit(alone, 100, 150 * DEAR_S, 150_000 * DEAR_S)  # nobody is in the way: it may be tried


def test_interactive_requests_are_let_in_past_a_bulk_backlog_and_bulk_requests_are_not() -> None:
    async def check(engine: HeldEngine, batcher: Batcher) -> None:
        admit(batcher, 1, 0.2, 200, "interactive")
        with pytest.raises(errors.Overloaded):
            admit(batcher, 1, 0.2, 200, "bulk")

    busy(check, 1000, "bulk")


def test_a_batch_that_hangs_refuses_everybody_until_it_ends() -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, DEAR_S))
        job = batcher.submit(rows(1), FAR)
        await engine.begun.acquire()
        engine.clock.now += 1000
        with pytest.raises(errors.Overloaded):
            admit(batcher, 1, 1.0, 1000)
        engine.go_on()
        await job
        engine.clock.now += 2 * PROBE_S
        admit(batcher, 1, 1.0, 1000)
        batcher.close()

    run(main())


def test_a_model_that_has_come_to_look_far_too_dear_is_tried_and_looks_right_again() -> None:
    async def main() -> None:
        engine = HeldEngine()
        engine.go_on(10_000)
        batcher = steady(engine, Cost(0, DEAR_S))
        batcher.cost.per_unit_s = 10.0
        n_probes = 0
        while True:
            try:
                admit(batcher, 1, 0.1, 100)
            except errors.DeadlineUnreachable:
                engine.clock.now += PROBE_S / 4
                continue
            await batcher.submit(rows(1), FAR)
            n_probes += 1
            if batcher.wait_s(1) < 2 * DEAR_S:
                break
        assert n_probes < 200
        batcher.close()

    run(main())
