"""Where the event loop cannot keep up they wait their turn, and who waits too long is refused."""

from __future__ import annotations

import asyncio
import gc
import itertools
import time
import weakref
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from causeway import door
from causeway.door import Door
from causeway.errors import ClientGone, Overloaded
from tests.conftest import PATIENCE_S

LATER_S = 60.0
TURNS = 5
"""Of the event loop, after which whoever may go in has."""


class Caller:
    """One that may hang up."""

    has_left = False

    def is_gone(self) -> bool:
        return self.has_left


class Callers:
    """Requests at a door, each of which goes in, works until it is told to leave, and leaves."""

    def __init__(self, at: Door) -> None:
        self._door = at
        self._ends: dict[str, asyncio.Event] = {}
        self._clients: dict[str, Caller] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.inside: list[str] = []
        """In the order in which they went in; those that have left are not in it."""

    async def come(self, *names: str, in_s: float = LATER_S) -> None:
        """They come one after the other; each is inside or waits when this returns."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._call(name, time.perf_counter() + in_s))
            await asyncio.sleep(0)

    async def leave(self, name: str) -> None:
        self._ends[name].set()
        await self.tasks[name]
        for _ in range(TURNS):
            await asyncio.sleep(0)

    def look(self) -> None:
        """One at whose time has run out."""
        self._door._sweep()

    async def refusal(self, name: str) -> Overloaded:
        with pytest.raises(Overloaded) as refused:
            await asyncio.wait_for(self.tasks[name], PATIENCE_S)
        return refused.value

    async def _call(self, name: str, deadline: float) -> None:
        if self._door.is_open:
            self._door.enter()
        else:
            await self._door.wait(deadline, LATER_S * 1000, self._clients.setdefault(name, Caller()))
        self.inside.append(name)
        try:
            await self._ends[name].wait()
        finally:
            self.inside.remove(name)
            self._door.leave(took_s=0.0)


def run(scene: Callable[[Callers], Awaitable[None]], *, inside: int) -> None:
    async def play() -> None:
        callers = Callers(Door((inside, inside)))
        await scene(callers)
        for task in callers.tasks.values():
            task.cancel()
        await asyncio.gather(*callers.tasks.values(), return_exceptions=True)

    asyncio.run(play())


def test_so_many_go_in_at_once_and_then_the_oldest() -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a", "b", "c", "d", "e")
        assert callers.inside == ["a", "b"]
        await callers.leave("a")
        assert callers.inside == ["b", "c"]
        await callers.leave("b")
        await callers.leave("c")
        assert callers.inside == ["d", "e"]

    run(scene, inside=2)


def test_nobody_goes_in_before_those_who_wait() -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a", "b")
        callers._ends["a"].set()
        await callers.tasks["a"]
        await callers.come("c")
        await callers.leave("b")
        assert callers.inside == ["c"]

    run(scene, inside=1)


def test_once_half_of_the_oldest_ones_time_is_over_the_newest_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a", "b")
        await callers.come("c", "d", in_s=10 * LATER_S)
        began = time.perf_counter()
        monkeypatch.setattr(door.time, "perf_counter", lambda: began + LATER_S / 2)
        await callers.leave("a")
        assert callers.inside == ["d"]
        await callers.leave("d")
        assert callers.inside == ["c"]
        await callers.leave("c")
        assert callers.inside == ["b"]
        await callers.come("e")
        await callers.leave("b")
        assert callers.inside == ["e"]

    run(scene, inside=1)


def test_who_waits_past_its_deadline_is_refused_and_nobody_else() -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a")
        await callers.come("late", in_s=0.0)
        await callers.come("b")
        refusal = await callers.refusal("late")
        assert refusal.retry_after_s == 1.0
        assert callers.inside == ["a"]
        await callers.leave("a")
        assert callers.inside == ["b"]

    run(scene, inside=1)


def test_who_is_too_late_is_not_let_in_before_it_is_refused() -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a", "b")
        await callers.come("late", in_s=0.0)
        await callers.leave("a")
        assert callers.inside == ["b"]
        await callers.refusal("late")

    run(scene, inside=1)


def test_of_many_who_are_too_late_a_few_are_refused_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    swept = Door._sweep

    async def scene(callers: Callers) -> None:
        def waiting(at: Door) -> int:
            return sum(not let_in.done() for _, _, _, let_in in at._by_deadline)

        def counted(at: Door) -> None:
            before = waiting(at)
            swept(at)
            looks.append(before - waiting(at))

        monkeypatch.setattr(Door, "_sweep", counted)
        names = [f"late {i}" for i in range(20)]
        await callers.come("a", *names, in_s=0.0)
        await asyncio.gather(*map(callers.refusal, names))

    run(scene, inside=1)
    assert sum(looks) == 20
    assert max(looks) <= max(door.REFUSED_AT_ONCE)


def test_of_many_who_are_too_late_all_are_refused_at_once_where_there_is_nothing_else_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(callers: Callers) -> None:
        names = [f"late {i}" for i in range(10 * door.REFUSED_WHILE_IDLE)]
        await callers.come("a")
        monkeypatch.setattr(Door, "_sweep_soon", lambda at: None)  # no look by the clock
        await callers.come(*names, in_s=0.0)
        await callers.leave("a")
        callers.look()
        for _ in range(TURNS * len(names)):
            await asyncio.sleep(0)
        assert all(callers.tasks[name].done() for name in names)
        await callers.come("b")
        assert callers.inside == ["b"]

    run(scene, inside=1)


def test_of_many_who_are_too_late_a_few_are_refused_at_a_time_while_others_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene(callers: Callers) -> None:
        names = [f"late {i}" for i in range(3 * door.REFUSED_WHILE_IDLE)]
        await callers.come("a")
        monkeypatch.setattr(Door, "_sweep_soon", lambda at: None)  # no look by the clock
        await callers.come(*names, in_s=0.0)
        await callers.come("b")
        callers.look()
        for _ in range(TURNS * len(names)):
            await asyncio.sleep(0)
        assert sum(callers.tasks[name].done() for name in names) in door.REFUSED_AT_ONCE
        await callers.leave("a")
        assert callers.inside == ["b"]

    run(scene, inside=1)


def test_fewer_go_in_at_once_where_they_take_long_and_more_again_where_they_do_not() -> None:
    def room(at: Door) -> int:
        """How many go in."""
        n = 0
        while at.is_open:
            at.enter()
            n += 1
        return n

    async def scene() -> None:
        at = Door((4, 64))
        assert room(at) == 64
        for _ in range(64):
            at.leave(took_s=10 * door.INSIDE_S)
        assert room(at) == 4
        waiting = asyncio.create_task(at.wait(time.perf_counter() + LATER_S, LATER_S * 1000, Caller()))
        await asyncio.sleep(0)
        for _ in range(2_000):
            at.leave(took_s=0.0)
            at.enter()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        at._inside = 0
        assert room(at) == 64

    asyncio.run(scene())


def test_one_that_hung_up_while_it_waited_is_not_refused_but_gone() -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a")
        await callers.come("left", in_s=0.0)
        callers._clients["left"].has_left = True
        with pytest.raises(ClientGone):
            await asyncio.wait_for(callers.tasks["left"], PATIENCE_S)

    run(scene, inside=1)


def test_where_too_many_wait_whoever_comes_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a", "b", "c")
        await callers.come("d")
        assert callers.tasks["d"].done()
        await callers.refusal("d")

    monkeypatch.setattr(door, "WAITING", 2)
    run(scene, inside=1)


def test_where_those_who_wait_hold_too_much_whoever_comes_is_refused_until_they_are_in() -> None:
    async def scene() -> None:
        at, later = Door((1, 1)), time.perf_counter() + LATER_S
        at.enter()
        large = asyncio.create_task(at.wait(later, 1000.0, Caller(), door.WAITING_BYTES - 1))
        gone = asyncio.create_task(at.wait(later, 1000.0, Caller(), 1))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await at.wait(later, 1000.0, Caller(), 1)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        instead = asyncio.create_task(at.wait(later, 1000.0, Caller(), 1))
        at.leave(0.0)
        await asyncio.wait_for(large, PATIENCE_S)
        at.leave(0.0)
        await asyncio.wait_for(instead, PATIENCE_S)
        at.enter()  # it is one too many, so that the next one waits
        filling = asyncio.create_task(at.wait(later, 1000.0, Caller(), door.WAITING_BYTES))
        for _ in range(TURNS):
            await asyncio.sleep(0)
        assert not filling.done()
        at.leave(0.0)
        at.leave(0.0)
        await asyncio.wait_for(filling, PATIENCE_S)

    asyncio.run(scene())


def test_who_was_refused_leaves_nothing_behind() -> None:
    class Rows:
        """What a request holds."""

    kept: list[weakref.ref[Rows]] = []

    async def call(at: Door) -> None:
        rows = Rows()
        kept.append(weakref.ref(rows))
        with suppress(Overloaded):
            await at.wait(time.perf_counter(), 0.0, Caller())
            pytest.fail("it was let in")

    async def scene() -> None:
        at = Door((1, 1))
        at.enter()
        gc.disable()
        try:
            await asyncio.gather(*(call(at) for _ in range(10)))
            assert not [rows for rows in kept if rows() is not None]
        finally:
            gc.enable()

    asyncio.run(scene())


def test_one_that_is_cancelled_while_it_waits_is_passed_over() -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a", "b", "gone")
        callers.tasks["gone"].cancel()
        await callers.leave("a")
        assert callers.inside == ["b"]

    run(scene, inside=1)


def test_one_that_is_cancelled_as_it_is_let_in_makes_room_for_the_next() -> None:
    async def scene() -> None:
        at = Door((1, 1))
        at.enter()
        waiting = asyncio.create_task(at.wait(time.perf_counter() + LATER_S, LATER_S * 1000, Caller()))
        await asyncio.sleep(0)
        at.leave(took_s=0.0)
        at._let_in()
        assert not at.is_open
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled()
        assert at.is_open

    asyncio.run(scene())


def test_whatever_comes_and_goes_the_door_is_open_again_in_the_end() -> None:
    async def scene(callers: Callers) -> None:
        names = [f"{i}" for i in range(50)]
        for name, in_s in zip(names, itertools.cycle([LATER_S, 0.0, LATER_S]), strict=False):
            await callers.come(name, in_s=in_s)
        callers.tasks["10"].cancel()
        for end in callers._ends.values():
            end.set()
        await asyncio.wait_for(asyncio.gather(*callers.tasks.values(), return_exceptions=True), PATIENCE_S)
        assert callers._door._inside == 0
        assert not callers.inside

    run(scene, inside=3)
