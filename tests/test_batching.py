"""Whatever shares a batch, each caller gets its own rows; and nobody waits for company, or works for the dead."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.batching import (
    BULK_SHARE,
    DEADLINE,
    DRAINED,
    FULL,
    IDLE,
    LOOP_BUDGET_S,
    RELEASED,
    THREAD_BUDGET_S,
    Batcher,
    Expired,
    Job,
    Poisoned,
    Priority,
)
from causeway.contract import Array
from causeway.cost import Cost
from tests.conftest import PATIENCE_S, wait_until

GOOD, RAISES, NAN = 0, 1, 2
"""What the engine does about a row, by its second feature."""

CHEAP_S, DEAR_S = LOOP_BUDGET_S / 20, THREAD_BUDGET_S / 10
"""Per row: 20 rows make a batch on the loop, 10 one in the thread."""

FAR = 1e6
"""A deadline that never comes."""


class Clock:
    """Time that only the engine's work lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Engine:
    """Predicts twice the first feature. It notes what it got; its work takes its time on the clock."""

    clock: Clock = field(default_factory=Clock)
    per_row_s: Iterator[float] = field(default_factory=lambda: cycle([0.0]))
    is_broken: bool = False
    batches: list[Array] = field(default_factory=list)
    threads: list[threading.Thread] = field(default_factory=list)

    def __call__(self, X: Array) -> Array:
        self.batches.append(X.copy())
        self.threads.append(threading.current_thread())
        self.clock.now += next(self.per_row_s) * len(X)
        if self.is_broken or (X[:, 1] == RAISES).any():
            raise RuntimeError("poison")
        return np.where(X[:, 1:2] == NAN, np.nan, X[:, :1] * 2).astype(np.float32)

    @property
    def n_rows(self) -> list[int]:
        """Of each batch."""
        return list(map(len, self.batches))

    @property
    def seen(self) -> set[float]:
        """The first feature of each row that came."""
        return {float(value) for X in self.batches for value in X[:, 0]}

    @property
    def was_on_loop(self) -> list[bool]:
        """Of each batch."""
        return [thread is threading.main_thread() for thread in self.threads]


@dataclass
class HeldEngine(Engine):
    """Begins a batch and waits until it is let go on; for the thread."""

    begun: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(0))
    _go: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(0))

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def __call__(self, X: Array) -> Array:
        self._loop.call_soon_threadsafe(self.begun.release)
        assert self._go.acquire(timeout=PATIENCE_S)
        return super().__call__(X)

    def go_on(self, n_batches: int = 1000) -> None:
        self._go.release(n_batches)


class Told:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, str]] = []
        self.n_poisoned = 0

    def batch(self, n_rows: int, released: str) -> None:
        self.batches.append((n_rows, released))

    def poisoned(self) -> None:
        self.n_poisoned += 1

    @property
    def released(self) -> list[str]:
        return [reason for _, reason in self.batches]


def rows(n: int, first: float = 0, kind: int = GOOD) -> Array:
    """n rows that can be told apart; the first of them is of that kind."""
    X = np.zeros((n, 2), dtype=np.float32)
    X[:, 0] = first + np.arange(n)
    X[0, 1] = kind
    return X


def run(main: Coroutine[Any, Any, None], *, collect: bool = True) -> None:
    """Runs it; fails where an exception was retrieved by nobody, or a callback raised."""
    faults: list[dict[str, Any]] = []

    async def watched() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
        async with asyncio.timeout(PATIENCE_S):
            await main
        if collect:
            gc.collect()

    asyncio.run(watched())
    if collect:
        gc.collect()
    assert not faults


def steady(engine: Engine, cost: Cost, told: Told | None = None) -> Batcher:
    """A batcher whose engine takes what the cost says, as long as nobody changes it."""
    engine.per_row_s = cycle([cost.per_unit_s])
    return Batcher(engine, cost, told or Told(), engine.clock)


async def outcomes(jobs: Sequence[Job]) -> list[Any]:
    return await asyncio.gather(*jobs, return_exceptions=True)


def assert_right(X: Array, predictions: Array) -> None:
    np.testing.assert_array_equal(predictions, X[:, :1] * 2)


async def many_turns() -> None:
    """Lets the loop do all that it can do without time passing."""
    for _ in range(50):
        await asyncio.sleep(0)


async def idle(batcher: Batcher) -> None:
    """Returns once nothing waits or is being computed, and that has been told."""
    while not batcher.is_idle:
        await asyncio.sleep(0)
    await many_turns()


# When a batch starts, and what is in it


def test_an_idle_engine_starts_at_once_with_what_is_there() -> None:
    async def main() -> None:
        engine, told = Engine(), Told()
        batcher = steady(engine, Cost(0, CHEAP_S), told)
        await outcomes([batcher.submit(rows(1), FAR)])
        await outcomes([batcher.submit(rows(2), FAR), batcher.submit(rows(3), FAR)])
        assert told.batches == [(1, IDLE), (5, IDLE)]

    run(main())


def test_what_arrives_while_the_engine_works_shares_the_next_batch() -> None:
    async def main() -> None:
        engine, told = HeldEngine(), Told()
        batcher = steady(engine, Cost(0, DEAR_S), told)
        jobs = [batcher.submit(rows(1), FAR)]
        await engine.begun.acquire()
        for first in range(5):
            jobs.append(batcher.submit(rows(1, first), FAR))
            await asyncio.sleep(0)
        engine.go_on()
        await outcomes(jobs)
        assert told.batches == [(1, IDLE), (5, DRAINED)]
        batcher.close()

    run(main())


def test_the_engine_goes_on_without_waiting_for_anybody_to_read_the_answers() -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, DEAR_S))
        first = batcher.submit(rows(10), FAR)
        second = batcher.submit(rows(10, 10), FAR)
        engine.go_on(1)
        await engine.begun.acquire()
        await engine.begun.acquire()
        assert_right(first.X, (await first).predictions)
        assert not second.is_over
        engine.go_on()
        await second
        batcher.close()

    run(main())


@pytest.mark.parametrize("sizes", [[20, 20, 1], [1] * 41, [7] * 6], ids=str)
def test_a_batch_is_full_by_its_rows_not_by_its_requests(sizes: list[int]) -> None:
    async def main() -> None:
        engine, told = Engine(), Told()
        batcher = steady(engine, Cost(0, CHEAP_S), told)
        await outcomes([batcher.submit(rows(n), FAR) for n in sizes])
        assert engine.n_rows == [20, 20, sum(sizes) - 40]
        assert told.released == [FULL, FULL, DRAINED]

    run(main())


@pytest.mark.parametrize("per_row_s", [CHEAP_S, DEAR_S])
@pytest.mark.parametrize("n", [19, 20, 21, 400, 401])
def test_a_request_larger_than_a_batch_is_split_and_joined_in_order(per_row_s: float, n: int) -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, per_row_s))
        job = batcher.submit(rows(n), FAR)
        scored = await job
        assert_right(job.X, scored.predictions)
        assert sum(engine.n_rows) == n
        assert scored.batch_rows == engine.n_rows[-1]
        assert scored.compute_s == pytest.approx(n * per_row_s)
        assert scored.queue_s == pytest.approx(0)
        batcher.close()

    run(main())


def test_a_large_request_does_not_hold_up_those_behind_it() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, CHEAP_S))
        large, small = batcher.submit(rows(2000), FAR), batcher.submit(rows(1), FAR)
        await small
        assert not large.is_over
        assert_right(large.X, (await large).predictions)

    run(main())


@pytest.mark.parametrize("per_row_s", [CHEAP_S, DEAR_S / 2])
def test_large_requests_are_done_one_after_the_other_and_not_all_at_the_end(per_row_s: float) -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, per_row_s))
        jobs = [batcher.submit(rows(2000), FAR) for _ in range(3)]
        for i, job in enumerate(jobs):
            assert_right(job.X, (await job).predictions)
            assert all(not later.is_over for later in jobs[i + 1 :])
            assert sum(later.taken for later in jobs[i + 1 :]) < 2000
        batcher.close()

    run(main())


def test_of_large_requests_with_deadlines_as_many_are_done_as_there_is_time_for() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, DEAR_S))
        need_s = 100 * DEAR_S
        jobs = [batcher.submit(rows(100), engine.clock.now + 2.5 * need_s) for _ in range(4)]
        done = [not isinstance(outcome, Expired) for outcome in await outcomes(jobs)]
        assert done == [True, True, False, False]
        batcher.close()

    run(main())


def test_an_answer_says_where_its_time_went() -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, DEAR_S))
        first = batcher.submit(rows(4), FAR)
        await engine.begun.acquire()
        engine.clock.now += 1.0  # a slow batch
        second = batcher.submit(rows(2), FAR)
        engine.go_on()
        one, two = await outcomes([first, second])
        assert (one.queue_s, one.compute_s) == pytest.approx((0, 1 + 4 * DEAR_S))
        assert (two.queue_s, two.compute_s) == pytest.approx((4 * DEAR_S, 2 * DEAR_S))
        assert (one.batch_rows, one.released, two.batch_rows, two.released) == (4, IDLE, 2, DRAINED)
        batcher.close()

    run(main())


# Everybody gets their own


@dataclass(frozen=True)
class Asked:
    n_rows: int
    priority: Priority
    kind: int
    turns: int
    """Of the loop, until the next one comes."""


asked = st.builds(
    Asked,
    st.integers(1, 60),
    st.sampled_from(["interactive", "interactive", "bulk"]),
    st.sampled_from([GOOD] * 5 + [RAISES, NAN]),
    st.sampled_from([0, 0, 0, 1, 5]),
)


@settings(deadline=None)
@given(
    st.lists(asked, min_size=1, max_size=25),
    st.sampled_from([CHEAP_S, DEAR_S, LOOP_BUDGET_S * 0.95, LOOP_BUDGET_S * 1.05, LOOP_BUDGET_S * 3]),
    st.lists(st.sampled_from([0.0, CHEAP_S, DEAR_S, LOOP_BUDGET_S]), min_size=1, max_size=5),
)
def test_however_rows_are_batched_each_caller_gets_its_own_and_only_the_guilty_fail(
    requests: list[Asked], expected_s: float, per_row_s: list[float]
) -> None:
    async def main() -> None:
        engine, told = Engine(per_row_s=cycle(per_row_s)), Told()
        batcher = Batcher(engine, Cost(0, expected_s), told, engine.clock)
        jobs = []
        for number, request in enumerate(requests):
            X = rows(request.n_rows, 100 * number, request.kind)
            jobs.append(batcher.submit(X, FAR, request.priority))
            for _ in range(request.turns):
                await asyncio.sleep(0)
        for request, job, outcome in zip(requests, jobs, await outcomes(jobs), strict=True):
            if request.kind == GOOD:
                assert_right(job.X, outcome.predictions)
                assert outcome.released in RELEASED
                assert outcome.queue_s > -1e-9
            else:
                assert isinstance(outcome, Poisoned)
                assert outcome.__cause__ is not None
        await idle(batcher)
        assert told.n_poisoned == sum(request.kind != GOOD for request in requests)
        assert batcher.wait_s(1) == Batcher(engine, batcher.cost, told, engine.clock).wait_s(1)
        batcher.close()

    run(main(), collect=False)


def test_a_split_request_is_joined_rightly_when_the_model_becomes_cheap_between_its_batches() -> None:
    async def main() -> None:
        engine = Engine()
        cost = Cost(0, LOOP_BUDGET_S * 1.05)
        batcher = Batcher(engine, cost, Told(), engine.clock)
        job = batcher.submit(rows(2 * int(cost.size_within(THREAD_BUDGET_S)) + 1), FAR)
        assert_right(job.X, (await job).predictions)
        assert engine.was_on_loop == [False, False, True]
        batcher.close()

    run(main())


# Faults


@pytest.mark.parametrize("per_row_s", [CHEAP_S, DEAR_S / 2])
@pytest.mark.parametrize("kind", [RAISES, NAN])
def test_one_poisoned_request_in_each_batch_of_16_leaves_15_right_answers(kind: int, per_row_s: float) -> None:
    async def main() -> None:
        engine, told = Engine(), Told()
        batcher = steady(engine, Cost(0, per_row_s), told)
        for guilty in range(16):
            jobs = [batcher.submit(rows(1, i, kind if i == guilty else GOOD), FAR) for i in range(16)]
            for i, outcome in enumerate(await outcomes(jobs)):
                if i == guilty:
                    assert isinstance(outcome, Poisoned)
                else:
                    assert_right(jobs[i].X, outcome.predictions)
        assert told.n_poisoned == 16
        assert told.batches == [(16, IDLE)] * 16
        batcher.close()

    run(main())


def test_a_batch_with_one_guilty_request_costs_few_calls() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, CHEAP_S))
        await outcomes([batcher.submit(rows(1, i, RAISES if i == 11 else GOOD), FAR) for i in range(16)])
        assert len(engine.batches) == 1 + 2 * 4
        batcher.close()

    run(main())


@pytest.mark.parametrize("per_row_s", [CHEAP_S, DEAR_S])
def test_an_engine_that_always_fails_fails_everybody_and_works_again_when_it_recovers(per_row_s: float) -> None:
    async def main() -> None:
        engine, told = Engine(is_broken=True), Told()
        batcher = steady(engine, Cost(0, per_row_s), told)
        failed = await outcomes([batcher.submit(rows(3, i), FAR) for i in range(30)])
        assert all(isinstance(outcome, Poisoned) for outcome in failed)
        assert told.n_poisoned == 30
        engine.is_broken = False
        jobs = [batcher.submit(rows(3, i), FAR) for i in range(30)]
        for job, scored in zip(jobs, await outcomes(jobs), strict=True):
            assert_right(job.X, scored.predictions)
        assert batcher.is_idle
        batcher.close()

    run(main())


@pytest.mark.parametrize("per_row_s", [CHEAP_S, DEAR_S])
def test_a_guilty_request_that_is_split_counts_once(per_row_s: float) -> None:
    async def main() -> None:
        engine, told = Engine(), Told()
        batcher = steady(engine, Cost(0, per_row_s), told)
        X = rows(200)
        X[:, 1] = RAISES
        failed, _ = await outcomes([batcher.submit(X, FAR), batcher.submit(rows(1), FAR)])
        assert isinstance(failed, Poisoned)
        await idle(batcher)
        assert told.n_poisoned == 1
        batcher.close()

    run(main())


@pytest.mark.parametrize("per_row_s", [CHEAP_S, DEAR_S])
def test_predictions_that_are_no_numbers_at_all_fail_their_requests_and_stop_nothing(per_row_s: float) -> None:
    async def main() -> None:
        engine = Engine()
        answers: Iterator[Callable[[Array], Any]] = iter([lambda X: np.array([["text"]] * len(X)), engine])
        batcher = Batcher(lambda X: next(answers)(X), Cost(0, per_row_s), Told(), engine.clock)
        assert isinstance((await outcomes([batcher.submit(rows(1), FAR)]))[0], Poisoned)
        job = batcher.submit(rows(1), FAR)
        assert_right(job.X, (await job).predictions)
        batcher.close()

    run(main())


# On the loop, or in a thread


def test_whose_fault_it_is_is_not_found_out_on_the_loop() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, CHEAP_S))
        await outcomes([batcher.submit(rows(1, i, RAISES), FAR) for i in range(16)])
        assert engine.was_on_loop == [True] + [False] * 30
        assert_right(rows(1), (await batcher.submit(rows(1), FAR)).predictions)
        assert engine.was_on_loop[-1]
        batcher.close()

    run(main())


@pytest.mark.parametrize(("per_row_s", "is_on_loop"), [(CHEAP_S, True), (DEAR_S, False)])
def test_a_cheap_model_runs_on_the_loop_and_a_dear_one_in_a_thread(per_row_s: float, is_on_loop: bool) -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, per_row_s))
        await outcomes([batcher.submit(rows(3), FAR) for _ in range(20)])
        assert set(engine.was_on_loop) == {is_on_loop}
        batcher.close()

    run(main())


@pytest.mark.parametrize(("was_s", "is_s"), [(CHEAP_S, DEAR_S), (DEAR_S, CHEAP_S)])
def test_a_model_moves_when_its_measured_cost_changes(was_s: float, is_s: float) -> None:
    async def main() -> None:
        engine = Engine(per_row_s=cycle([is_s]))
        batcher = Batcher(engine, Cost(0, was_s), Told(), engine.clock)
        for number in range(100):
            job = batcher.submit(rows(1 + number % 4), FAR)
            assert_right(job.X, (await job).predictions)
        assert engine.was_on_loop[0] == (was_s < LOOP_BUDGET_S)
        assert engine.was_on_loop[-1] == (is_s < LOOP_BUDGET_S)
        assert len(set(engine.was_on_loop[-10:])) == 1
        batcher.close()

    run(main())


def test_the_loop_turns_while_a_dear_model_computes() -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, DEAR_S))
        job = batcher.submit(rows(1), FAR)
        await engine.begun.acquire()
        await many_turns()
        assert not job.is_over
        engine.go_on()
        await job
        batcher.close()

    run(main())


@pytest.mark.parametrize(("per_row_s", "budget_s"), [(CHEAP_S, LOOP_BUDGET_S), (DEAR_S, THREAD_BUDGET_S)])
def test_a_batch_takes_no_longer_than_its_budget(per_row_s: float, budget_s: float) -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, per_row_s))
        await outcomes([batcher.submit(rows(3), FAR) for _ in range(100)])
        assert max(engine.n_rows) * per_row_s == pytest.approx(budget_s)
        batcher.close()

    run(main())


def test_a_model_that_costs_the_same_whatever_the_rows_gets_all_of_them_at_once() -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = Batcher(engine, Cost(THREAD_BUDGET_S * 1.2, 1e-6), Told(), engine.clock)
        jobs = [batcher.submit(rows(1, i), FAR) for i in range(100)]
        await engine.begun.acquire()
        engine.go_on()
        await outcomes(jobs)
        assert engine.n_rows == [100]
        batcher.close()

    run(main())


# Deadlines, and those who leave


def test_the_tightest_deadline_bounds_a_batch() -> None:
    async def main() -> None:
        engine, told = Engine(), Told()
        batcher = steady(engine, Cost(0, CHEAP_S), told)
        jobs = [batcher.submit(rows(2), deadline) for deadline in (FAR, CHEAP_S * 5, FAR, FAR)]
        await outcomes(jobs)
        assert told.batches == [(4, DEADLINE), (4, DRAINED)]

    run(main())


def test_a_deadline_that_no_batch_could_meet_does_not_hold_up_what_is_before_it() -> None:
    async def main() -> None:
        engine, told = Engine(), Told()
        batcher = steady(engine, Cost(0, CHEAP_S), told)
        _, late = await outcomes([batcher.submit(rows(2), FAR), batcher.submit(rows(5), CHEAP_S * 4)])
        assert isinstance(late, Expired)
        assert told.batches == [(2, IDLE)]

    run(main())


@pytest.mark.parametrize("per_row_s", [CHEAP_S, DEAR_S])
def test_work_whose_deadline_has_passed_before_it_starts_is_never_computed(per_row_s: float) -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, per_row_s))
        late, good = batcher.submit(rows(3, 100), 1.0), batcher.submit(rows(3), FAR)
        engine.clock.now = 1.0
        expired, scored = await outcomes([late, good])
        assert isinstance(expired, Expired)
        assert_right(good.X, scored.predictions)
        assert engine.seen == {0, 1, 2}
        batcher.close()

    run(main())


def test_a_deadline_is_told_while_the_engine_is_busy_with_others_and_the_rows_are_never_computed() -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = Batcher(engine, Cost(0, DEAR_S), Told())
        now = time.perf_counter()
        busy = batcher.submit(rows(1), now + FAR)
        await engine.begun.acquire()
        waiting = batcher.submit(rows(2, 100), now + 0.02)
        also = batcher.submit(rows(1, 200), now + FAR)
        with pytest.raises(Expired):
            await waiting
        assert not busy.is_over
        engine.go_on()
        await outcomes([busy, also])
        assert engine.seen == {0, 200}
        batcher.close()

    run(main())


def test_a_deadline_is_told_while_the_engine_hangs_over_the_request_itself() -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = Batcher(engine, Cost(0, DEAR_S), Told())
        job = batcher.submit(rows(1), time.perf_counter() + 0.02)
        with pytest.raises(Expired):
            await job
        engine.go_on()
        again = batcher.submit(rows(1), time.perf_counter() + FAR)
        assert_right(again.X, (await again).predictions)
        await idle(batcher)
        batcher.close()

    run(main())


class Left(Exception):
    """The client has gone."""


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
def test_work_that_is_dropped_is_never_computed(priority: Priority) -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, DEAR_S))
        jobs = [batcher.submit(rows(10, 10 * i), FAR, priority) for i in range(10)]
        await engine.begun.acquire()
        before = batcher.wait_s(1, priority)
        for job in jobs[1:9]:
            batcher.drop(job, Left())
            batcher.drop(job, Left())
        assert before - batcher.wait_s(1, priority) == pytest.approx(80 * DEAR_S)
        engine.go_on()
        results = await outcomes(jobs)
        assert [isinstance(result, Left) for result in results] == [False] + [True] * 8 + [False]
        assert engine.seen == {*range(10), *range(90, 100)}
        await idle(batcher)
        batcher.close()

    run(main())


def test_dropping_what_is_done_changes_nothing() -> None:
    async def main() -> None:
        batcher = steady(Engine(), Cost(0, CHEAP_S))
        job = batcher.submit(rows(3), FAR)
        await many_turns()
        assert job.is_over
        batcher.drop(job, Left())
        assert_right(job.X, (await job).predictions)
        assert batcher.is_idle

    run(main())


def test_a_split_request_that_is_dropped_halfway_stops_there() -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, DEAR_S))
        large = batcher.submit(rows(100), FAR)
        await engine.begun.acquire()
        batcher.drop(large, Left())
        small = batcher.submit(rows(1, 500), FAR)
        engine.go_on()
        results = await outcomes([large, small])
        assert isinstance(results[0], Left)
        assert engine.n_rows == [10, 1]
        await idle(batcher)
        batcher.close()

    run(main())


@pytest.mark.parametrize("n", [1, 25], ids=["whole", "split"])
def test_callers_that_are_cancelled_leave_no_waiting_rows_behind(n: int) -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, DEAR_S))

        async def call(first: int, priority: Priority) -> None:
            await batcher.submit(rows(n, first), FAR, priority)

        tasks = [
            asyncio.create_task(call(100 * i, priority))
            for i, priority in enumerate(["interactive"] * 6 + ["bulk"] * 6)
        ]
        await engine.begun.acquire()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        engine.go_on()
        job = batcher.submit(rows(1, 5000), FAR)
        assert_right(job.X, (await job).predictions)
        await idle(batcher)
        assert len(engine.batches) == 2  # the one that was being computed, and the last
        assert batcher.wait_s(1) == Batcher(engine, batcher.cost, Told(), engine.clock).wait_s(1)
        batcher.close()

    run(main())


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 30), st.sampled_from(["stay", "cancel", "drop", "expire"])), min_size=1, max_size=20
    ),
    st.integers(0, 20),
)
def test_whoever_leaves_in_whatever_way_those_who_stay_are_answered_and_no_row_is_left_waiting(
    requests: list[tuple[int, str]], turns: int
) -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, DEAR_S))
        jobs = []
        for number, (n, fate) in enumerate(requests):
            deadline = 0.3 if fate == "expire" else FAR
            jobs.append(batcher.submit(rows(n, 100 * number), deadline, "bulk" if number % 3 == 2 else "interactive"))
        callers = [asyncio.ensure_future(job) for job in jobs]
        for _ in range(turns):
            await asyncio.sleep(0)
        for (_, fate), job, caller in zip(requests, jobs, callers, strict=True):
            if fate == "cancel":
                caller.cancel()
            elif fate == "drop":
                batcher.drop(job, Left())
        results = await asyncio.gather(*callers, return_exceptions=True)
        for (_, fate), job, result in zip(requests, jobs, results, strict=True):
            if fate == "stay" or not isinstance(result, BaseException):
                assert_right(job.X, result.predictions)
        await idle(batcher)
        assert batcher.wait_s(1) == Batcher(engine, batcher.cost, Told(), engine.clock).wait_s(1)
        batcher.close()

    run(main(), collect=False)


class Clumsy(Job):
    """Fails when it is told that it is over."""

    def ended(self) -> None:
        raise RuntimeError("clumsy")


@pytest.mark.parametrize("n", [1, 25], ids=["whole", "split"])
def test_a_job_that_fails_at_its_end_is_told_to_the_loop_and_the_others_of_its_batch_are_done(n: int) -> None:
    async def main() -> None:
        told: list[str] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(str(context["exception"])))
        batcher = steady(Engine(), Cost(0, DEAR_S))
        before, after = batcher.submit(rows(2), FAR), Job(rows(n, 50), FAR)
        batcher.put(Clumsy(rows(n, 10), FAR))
        batcher.put(after)
        for job in (before, after):
            assert_right(job.X, (await job).predictions)
        assert told == ["clumsy"]
        await idle(batcher)
        batcher.close()

    run(main())


def test_an_error_that_was_raised_keeps_nothing_of_its_request() -> None:
    async def main() -> None:
        batcher = steady(Engine(), Cost(0, CHEAP_S))
        job = batcher.submit(rows(1), FAR)
        X = weakref.ref(job.X)
        batcher.drop(job, Left())
        gc.disable()
        try:
            with suppress(Left):
                await job
            del job
            await many_turns()
            assert X() is None
        finally:
            gc.enable()

    run(main())


# Priorities


def order(engine: Engine) -> list[str]:
    """Of each row that was computed, the priority that `mixed` gave it."""
    return ["bulk" if value < 0 else "interactive" for X in engine.batches for value in X[:, 0]]


@pytest.mark.parametrize("bulk_rows", [1, 7, 100, 3000])
@pytest.mark.parametrize("interactive_rows", [1, 9])
def test_bulk_gets_its_share_beside_interactive_requests_that_would_take_all(
    interactive_rows: int, bulk_rows: int
) -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, CHEAP_S))
        jobs = [batcher.submit(rows(bulk_rows, -1e6), FAR, "bulk") for _ in range(max(2, 3000 // bulk_rows))]
        jobs += [batcher.submit(rows(interactive_rows), FAR) for _ in range(3600 // interactive_rows)]
        await outcomes(jobs)
        computed = order(engine)
        beside = Counter(computed[: len(computed) - computed[::-1].index("interactive")])
        assert beside["bulk"] / beside.total() == pytest.approx(BULK_SHARE, rel=0.25)

    run(main())


def test_bulk_goes_last_and_gets_everything_where_nobody_else_asks() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, CHEAP_S))
        bulk = batcher.submit(rows(60, -1e6), FAR, "bulk")
        interactive = [batcher.submit(rows(1), FAR) for _ in range(5)]
        await outcomes([bulk, *interactive])
        assert order(engine) == ["interactive"] * 5 + ["bulk"] * 60
        assert engine.n_rows == [20, 20, 20, 5]

    run(main())


@pytest.mark.parametrize("per_row_s", [CHEAP_S, DEAR_S])
def test_a_bulk_backlog_hardly_lengthens_the_predicted_wait_of_an_interactive_request(per_row_s: float) -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, per_row_s))
        bulk = [batcher.submit(rows(100, 1000 * i), FAR, "bulk") for i in range(100)]
        interactive = [batcher.submit(rows(1, 1e6 + i), FAR) for i in range(20)]
        assert batcher.wait_s(1, "bulk") >= per_row_s * 10_000
        assert batcher.wait_s(1) <= per_row_s * 30 + THREAD_BUDGET_S
        for job in (*bulk, *interactive):
            batcher.drop(job, Left())
        await outcomes([*bulk, *interactive])
        engine.go_on()
        await many_turns()
        batcher.close()

    run(main())


# The prediction of waiting


def test_the_predicted_wait_counts_what_waits_and_what_is_left_of_the_running_batch() -> None:
    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, DEAR_S))
        assert batcher.wait_s(4) == pytest.approx(4 * DEAR_S)
        jobs = [batcher.submit(rows(10), FAR)]
        await engine.begun.acquire()
        jobs.append(batcher.submit(rows(25), FAR))
        assert batcher.wait_s(5) == pytest.approx((10 + 3 * 10 + 10) * DEAR_S)  # others will be in the last batch
        engine.clock.now += 4 * DEAR_S
        assert batcher.wait_s(5) == pytest.approx((6 + 3 * 10 + 10) * DEAR_S)
        engine.clock.now += 100.0
        assert batcher.wait_s(5) >= (25 + 5) * DEAR_S
        engine.go_on()
        await outcomes(jobs)
        batcher.close()

    run(main())


def test_idleness_is_counted_from_the_end_of_the_last_batch() -> None:
    async def main() -> None:
        engine = Engine()
        batcher = steady(engine, Cost(0, CHEAP_S))
        await batcher.submit(rows(3), FAR)
        engine.clock.now += 7
        assert batcher.idle_s == pytest.approx(7)
        job = batcher.submit(rows(3), FAR)
        assert not batcher.is_idle
        assert batcher.idle_s == 0
        await job

    run(main())


def test_one_batch_that_hangs_for_seconds_does_not_make_the_model_look_dear_for_long() -> None:
    async def main() -> None:
        engine = Engine(per_row_s=iter([5.0] + [DEAR_S] * 100))
        batcher = Batcher(engine, Cost(0, DEAR_S), Told(), engine.clock)
        await batcher.submit(rows(1), FAR)
        assert batcher.wait_s(1) <= 1.2 * DEAR_S
        batcher.close()

    run(main())


# The end


def test_closing_ends_the_thread() -> None:
    before = threading.active_count()

    async def main() -> None:
        batchers = [steady(Engine(), Cost(0, DEAR_S)) for _ in range(5)]
        await outcomes([batcher.submit(rows(3), FAR) for batcher in batchers])
        assert threading.active_count() >= before + 5
        for batcher in batchers:
            batcher.close()
            batcher.close()

    run(main())
    wait_until(lambda: threading.active_count() == before, "the end of the threads")


def test_closing_a_batcher_that_works_loses_nothing_that_was_submitted() -> None:
    before = threading.active_count()

    async def main() -> None:
        engine = HeldEngine()
        batcher = steady(engine, Cost(0, DEAR_S))
        jobs = [batcher.submit(rows(7, 10 * i), FAR) for i in range(10)]
        await engine.begun.acquire()
        batcher.close()
        engine.go_on()
        for job, scored in zip(jobs, await outcomes(jobs), strict=True):
            assert_right(job.X, scored.predictions)

    run(main())
    wait_until(lambda: threading.active_count() == before, "the end of the threads")
