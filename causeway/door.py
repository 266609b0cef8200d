"""Who goes first where the event loop cannot keep up: the newest, while they who wait keep their connections busy.

With a cheap model, reading a request and writing an answer is most of the work, and a refusal costs as much as an
answer: refusing the surplus at once would leave no time to answer anybody, and in the order of arrival everybody would
be answered too late. Whoever has not been let in by its deadline is refused then, a few at a time.

Source: Maurer, Fail at Scale (ACM Queue 13(8), 2015), adaptive LIFO.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time

from causeway import errors

INSIDE = 256
"""Requests that are worked on at once: more would only wait for each other, outside of the processor's caches."""

SWEEP_S = 0.01
"""How often it is looked whose time has run out."""

REFUSED_AT_ONCE = 16
"""Refusals in each of these looks while the door is closed: a tenth of the time, about."""


class Door:
    """In front of the work that is done on the event loop, to which all methods belong."""

    def __init__(self, inside: int = INSIDE) -> None:
        self._limit = inside
        self._inside = 0
        self._newest_last: list[tuple[float, asyncio.Future[None]]] = []
        self._by_deadline: list[tuple[float, int, float, asyncio.Future[None]]] = []
        """A heap: deadline, a number that no other has, timeout_ms, and what is set when its time has come or gone."""
        self._numbers = itertools.count()
        self._is_sweeping = False

    @property
    def is_open(self) -> bool:
        """Whether `enter` may be called."""
        return self._inside < self._limit

    def enter(self) -> None:
        """Goes in; `leave` must follow."""
        self._inside += 1

    async def wait(self, deadline: float, timeout_ms: float) -> None:
        """Goes in once it is this one's turn; `leave` must follow.

        Raises `Overloaded` after `deadline` (`time.perf_counter`), of a request that is allowed `timeout_ms`.
        """
        let_in = asyncio.get_running_loop().create_future()
        self._newest_last.append((deadline, let_in))
        heapq.heappush(self._by_deadline, (deadline, next(self._numbers), timeout_ms, let_in))
        self._sweep_soon()
        try:
            await let_in
        except asyncio.CancelledError:
            if not let_in.cancelled():  # it was let in meanwhile
                self.leave()
            raise

    def leave(self) -> None:
        """Lets the newest in whose time has not run out."""
        now = time.perf_counter()
        while self._newest_last:
            deadline, let_in = self._newest_last.pop()
            if deadline > now and not let_in.done():
                let_in.set_result(None)
                return
        self._inside -= 1

    def _sweep_soon(self) -> None:
        if not self._is_sweeping:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._is_sweeping = False
        now, left = time.perf_counter(), REFUSED_AT_ONCE
        while self._by_deadline and (self._by_deadline[0][3].done() or (self._by_deadline[0][0] <= now and left)):
            deadline, _, timeout_ms, let_in = heapq.heappop(self._by_deadline)
            if not let_in.done():
                left -= not self.is_open
                waited_ms = timeout_ms + (now - deadline) * 1000
                let_in.set_exception(errors.Overloaded(timeout_ms, waited_ms, retry_after_s=1.0))
        if self._by_deadline:
            self._sweep_soon()
