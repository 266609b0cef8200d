"""Who goes first where the event loop cannot keep up: the oldest, and where these would all be too late, the newest.

With a cheap model, reading a request and writing an answer is most of the work, and a refusal costs as much as an
answer: refusing the surplus at once would leave no time to answer anybody, and in the order of arrival everybody would
be answered too late. So the surplus waits, once the oldest has waited for half of its time the newest go first, and
whoever has not been let in by its deadline is refused later: a few at a time, and more where there is nothing else to
do. A request holds nothing here but itself; its client may hang up.

Source: Maurer, Fail at Scale (ACM Queue 13(8), 2015), adaptive LIFO.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import deque
from typing import Protocol

from causeway import errors

INSIDE = (16, 256)
"""Requests that are worked on at once, at least and at most."""

INSIDE_S = 0.02
"""How long they may take, on average: there are fewer of them where they take longer."""

LEARN = 0.05
"""Weight of the newest in that average."""

RETRY_AFTER_S = 1.0
"""After which whoever was refused may come again: nothing tells how long a crowd stays."""

SWEEP_S = 0.01
"""How often it is looked whose time has run out."""

REFUSED_AT_ONCE = (2, 8)
"""Refusals in each of these looks while others come and wait, and where nobody has had to for `CALM_S`. A refusal costs
as much as an answer, and frees a connection for the next request."""

CALM_S = 0.1

REFUSED_WHILE_IDLE = 16
"""Refusals at once where nobody is inside and nobody waits whose time is not over: then it is looked again as soon as
has come who came meanwhile. What a pause of the machine has left behind is gone soon."""

WAITING = 16_384
WAITING_BYTES = 128 * 2**20
"""Requests that wait at most, and what their rows take; with more, whoever comes is refused at once. That is for the
sake of memory alone: to refuse so many at once leaves no time to answer anybody."""

_LET_IN, _REFUSED, _GONE = range(3)


class Client(Protocol):
    """Whoever asked."""

    def is_gone(self) -> bool:
        """Whether it is known to have hung up."""


Turn = asyncio.Future[int]
"""Of somebody who waits: done once it has come, or gone."""


class Door:
    """In front of the work that is done on the event loop, to which all methods belong."""

    def __init__(self, inside: tuple[int, int] = INSIDE) -> None:
        self._least, self._most = inside
        self._limit = float(self._most)
        self._inside = 0
        self._takes_s = 0.0
        self._crowded_at = float("-inf")
        self._waiting: deque[tuple[float, float, Turn]] = deque()
        """In the order of arrival: when half of its time is over, deadline, and what is set when its time has come."""
        self._is_late = False
        """Whether half of the oldest one's time is over."""
        self._by_deadline: list[tuple[float, int, Client, Turn]] = []
        """A heap: deadline, a number that no other has, who asks, and what is set when its time has come or gone."""
        self._numbers = itertools.count()
        self._n_waiting = self._waiting_bytes = 0
        self._is_sweeping = False
        self._is_letting_in = False

    @property
    def is_open(self) -> bool:
        """Whether `enter` may be called: there is room, and nobody who waits goes first."""
        return self._inside < self._limit and (self._is_late or not self._n_waiting)

    def enter(self) -> None:
        """Goes in; `leave` must follow."""
        self._inside += 1

    async def wait(self, deadline: float, timeout_ms: float, client: Client, n_bytes: int = 0) -> None:
        """Goes in, with `n_bytes` of rows, once it is this one's turn; `leave` must follow.

        Raises `Overloaded` after `deadline` (`time.perf_counter`), of a request that is allowed `timeout_ms`, or
        `ClientGone`, where the client has hung up by then; `Overloaded` at once where too many wait.
        """
        began = time.perf_counter()
        turn = self.line_up(began, deadline, timeout_ms, client, n_bytes)
        try:
            await turn
        except asyncio.CancelledError:
            self._count(-1, -n_bytes)
            if not turn.cancelled() and turn.result() == _LET_IN:  # meanwhile
                self.leave(0.0)
            raise
        self.go_in(turn, began, timeout_ms, n_bytes)

    def line_up(self, began: float, deadline: float, timeout_ms: float, client: Client, n_bytes: int = 0) -> Turn:
        """As `wait`, for who cannot wait here: once the turn is done, `go_in` must follow.

        Raises `Overloaded` where too many wait.
        """
        self._crowded_at = began
        if self._n_waiting >= WAITING or self._waiting_bytes + n_bytes > WAITING_BYTES:
            raise errors.Overloaded(timeout_ms, timeout_ms, RETRY_AFTER_S)
        turn: Turn = asyncio.get_running_loop().create_future()
        self._waiting.append(((began + deadline) / 2, deadline, turn))
        heapq.heappush(self._by_deadline, (deadline, next(self._numbers), client, turn))
        self._sweep_soon()
        self._count(1, n_bytes)
        if self._inside < self._limit:
            self._let_in_soon()
        return turn

    def go_in(self, turn: Turn, began: float, timeout_ms: float, n_bytes: int = 0) -> None:
        """Goes in, after a turn that is done; `leave` must follow. Raises what `wait` does."""
        self._count(-1, -n_bytes)
        outcome = turn.result()
        # Raised only here: an exception in the future would be a cycle with this frame, and keep the request's rows.
        if outcome == _GONE:
            raise errors.ClientGone()
        if outcome == _REFUSED:
            raise errors.Overloaded(timeout_ms, (time.perf_counter() - began) * 1000, RETRY_AFTER_S)

    def leave(self, took_s: float) -> None:
        """Makes room after so long."""
        self._inside -= 1
        self._takes_s += (took_s - self._takes_s) * LEARN
        if self._takes_s > INSIDE_S:
            self._limit = max(self._limit - 1, self._least)
        elif self._waiting:
            self._limit = min(self._limit + 0.1, self._most)
        if self._waiting:
            self._let_in_soon()

    def _count(self, n: int, n_bytes: int) -> None:
        self._n_waiting += n
        self._waiting_bytes += n_bytes

    def _let_in_soon(self) -> None:
        """Where the newest go first, that is whoever has come by now and was not seen yet."""
        if not self._is_letting_in:
            self._is_letting_in = True
            loop = asyncio.get_running_loop()
            # Not in the next turn of the event loop, but in the one in which it has seen who came meanwhile.
            loop.call_soon(loop.call_soon, self._let_in)

    def _let_in(self) -> None:
        self._is_letting_in = False
        now = time.perf_counter()
        while self._waiting and self._inside < self._limit:
            late_at, ends_at, oldest = self._waiting[0]
            if oldest.done() or ends_at <= now:  # is refused by a sweep
                self._waiting.popleft()
                continue
            self._is_late = late_at <= now
            _, deadline, turn = self._waiting.pop() if self._is_late else self._waiting.popleft()
            if deadline > now + 2 * min(self._takes_s, INSIDE_S) and not turn.done():
                turn.set_result(_LET_IN)
                self._inside += 1
        self._is_late = self._is_late and bool(self._waiting)

    def _forget_the_done(self) -> None:
        """Those who were let in or refused, where there are many: each keeps what it asked for."""
        most = 2 * self._n_waiting
        if len(self._waiting) > most:
            self._waiting = deque(each for each in self._waiting if not each[-1].done())
        if len(self._by_deadline) > most:
            self._by_deadline = [each for each in self._by_deadline if not each[-1].done()]
            heapq.heapify(self._by_deadline)

    def _sweep_soon(self) -> None:
        if not self._is_sweeping:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self._is_sweeping = False
        now = time.perf_counter()
        while self._waiting and (self._waiting[0][-1].done() or self._waiting[0][1] <= now):
            self._waiting.popleft()
        is_idle = not self._inside and not self._waiting
        left = REFUSED_WHILE_IDLE if is_idle else REFUSED_AT_ONCE[now > self._crowded_at + CALM_S]
        while self._by_deadline and (self._by_deadline[0][3].done() or (self._by_deadline[0][0] <= now and left)):
            _, _, client, turn = heapq.heappop(self._by_deadline)
            if not turn.done():
                is_gone = client.is_gone()
                left -= not is_gone
                turn.set_result(_GONE if is_gone else _REFUSED)
        self._forget_the_done()
        if self._by_deadline and is_idle and not left:
            self._is_sweeping = True
            asyncio.get_running_loop().call_soon(self._sweep)
        elif self._by_deadline:
            self._sweep_soon()
