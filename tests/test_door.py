"""Where the event loop cannot keep up the newest go first, and who waits too long is refused."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable, Callable

import pytest

from causeway import door
from causeway.door import Door
from causeway.errors import Overloaded
from tests.conftest import PATIENCE_S

LATER_S = 60.0


class Callers:
    """Requests at a door, each of which goes in, works until it is told to leave, and leaves."""

    def __init__(self, at: Door) -> None:
        self._door = at
        self._ends: dict[str, asyncio.Event] = {}
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
        await asyncio.sleep(0)

    async def refusal(self, name: str) -> Overloaded:
        with pytest.raises(Overloaded) as refused:
            await asyncio.wait_for(self.tasks[name], PATIENCE_S)
        return refused.value

    async def _call(self, name: str, deadline: float) -> None:
        if self._door.is_open:
            self._door.enter()
        else:
            await self._door.wait(deadline, LATER_S * 1000)
        self.inside.append(name)
        try:
            await self._ends[name].wait()
        finally:
            self.inside.remove(name)
            self._door.leave()


def run(scene: Callable[[Callers], Awaitable[None]], *, inside: int) -> None:
    async def play() -> None:
        callers = Callers(Door(inside))
        await scene(callers)
        for task in callers.tasks.values():
            task.cancel()
        await asyncio.gather(*callers.tasks.values(), return_exceptions=True)

    asyncio.run(play())


def test_so_many_go_in_at_once_and_then_the_newest() -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a", "b", "c", "d", "e")
        assert callers.inside == ["a", "b"]
        await callers.leave("a")
        assert callers.inside == ["b", "e"]
        await callers.leave("b")
        await callers.leave("e")
        assert callers.inside == ["d", "c"]

    run(scene, inside=2)


def test_who_waits_past_its_deadline_is_refused_and_nobody_else() -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a")
        await callers.come("late", in_s=0.0)
        await callers.come("b")
        refusal = await callers.refusal("late")
        assert refusal.retry_after_s == 1.0
        assert refusal.facts["wait_ms"] >= LATER_S * 1000
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


def test_a_closed_door_refuses_a_few_at_a_time_and_an_open_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[int] = []
    swept = Door._sweep

    async def scene(callers: Callers) -> None:
        def counted(self: Door) -> None:
            before = refused()
            swept(self)
            asyncio.get_running_loop().call_soon(lambda: looks.append(refused() - before))

        def refused() -> int:
            return sum(task.done() for task in callers.tasks.values())

        monkeypatch.setattr(Door, "_sweep", counted)
        await callers.come("a")
        names = [f"late {i}" for i in range(2 * door.REFUSED_AT_ONCE)]
        await callers.come(*names, in_s=0.0)
        await asyncio.gather(*map(callers.refusal, names))
        assert len([n for n in looks if n]) >= 2
        assert max(looks) <= door.REFUSED_AT_ONCE + 1
        looks.clear()
        await callers.come(*names, in_s=0.0)
        await callers.leave("a")
        await asyncio.gather(*map(callers.refusal, names))

    run(scene, inside=1)


def test_one_that_is_cancelled_while_it_waits_is_passed_over() -> None:
    async def scene(callers: Callers) -> None:
        await callers.come("a", "b", "gone")
        callers.tasks["gone"].cancel()
        await callers.leave("a")
        assert callers.inside == ["b"]

    run(scene, inside=1)


def test_one_that_is_cancelled_as_it_is_let_in_makes_room_for_the_next() -> None:
    async def scene() -> None:
        at = Door(inside=1)
        at.enter()
        waiting = asyncio.create_task(at.wait(time.perf_counter() + LATER_S, LATER_S * 1000))
        await asyncio.sleep(0)
        at.leave()
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
