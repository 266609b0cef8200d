"""The open-loop load generator: requests go out on a schedule, whether or not earlier ones were answered.

Latency counts from the moment at which a request was meant to go out, so a server that stalls, and a generator that is
late, both show in it (no coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from load_tests.open_loop.client import Answer, Connection

NOT_SENT = -1
NO_ANSWER = 0

GRACE_S = 3.0
"""How long answers are awaited after the last request went out."""

LEAD_S = 0.2
"""Between the start of the clock and the first request."""


@dataclass(frozen=True)
class Offered:
    """What became of each request of a schedule; all arrays are (n_requests,)."""

    due_s: NDArray[np.float64]
    """When it was meant to go out, in seconds from the start of the schedule."""
    late_s: NDArray[np.float64]
    """How much later the generator turned to it; opening a connection for it, where none was idle, is not in this."""
    status: NDArray[np.int64]
    """Of its answer; `NO_ANSWER` where the connection broke or none came in time, `NOT_SENT` where none was free."""
    latency_s: NDArray[np.float64]
    """From `due_s` to the last byte of the answer; NaN without one."""
    has_retry_after: NDArray[np.bool_]
    """Whether the answer had a Retry-After header."""
    connections: int
    """Connections that were needed."""
    faults: dict[str, int] = field(default_factory=dict)
    """Why connections gave no answer, and how often."""


def poisson(rate_per_s: float, seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Times in [0, seconds), sorted, at which independent callers come: gaps are exponential."""
    n = int(rate_per_s * seconds + 6 * (rate_per_s * seconds) ** 0.5) + 10
    times = rng.exponential(1 / rate_per_s, n).cumsum()
    return times[times < seconds]


async def offer(
    port: int,
    requests: Sequence[bytes],
    due_s: NDArray[np.float64],
    *,
    connections: int,
    beside: Callable[[], Awaitable[None]] | None = None,
) -> Offered:
    """Sends `requests` in turn at the times `due_s`, on as many connections as it takes, at most `connections`.

    `beside` runs in the same loop meanwhile.
    """
    generator = _Generator(port, requests, due_s, connections)
    companion = asyncio.ensure_future(beside()) if beside else None
    try:
        await generator.run()
    finally:
        if companion:
            companion.cancel()
            with suppress(asyncio.CancelledError):
                await companion
    return generator.offered()


class _Generator:
    """The state of one schedule; request number i is due at `due_s[i]`."""

    def __init__(self, port: int, requests: Sequence[bytes], due_s: NDArray[np.float64], limit: int) -> None:
        n = len(due_s)
        self._port, self._requests, self._due_s, self._limit = port, requests, due_s, limit
        self._late_s, self._latency_s = np.full(n, np.nan), np.full(n, np.nan)
        self._status, self._has_retry_after = np.full(n, NOT_SENT), np.zeros(n, dtype=np.bool_)
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()
        self._opening: set[asyncio.Task[None]] = set()
        self._most = 0
        self._faults: Counter[str] = Counter()

    async def run(self) -> None:
        """Sends everything on time, and waits a little for the last answers."""
        self._start_s = time.perf_counter() + LEAD_S
        for number, due_s in enumerate(self._due_s):
            ahead_s = self._start_s + due_s - time.perf_counter()
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            elif number % 32 == 0:
                await asyncio.sleep(0)  # behind the schedule: answers are read all the same
            self._begin(number)
        give_up_s = time.perf_counter() + GRACE_S
        while (self._busy or self._opening) and time.perf_counter() < give_up_s:
            await asyncio.sleep(0.01)

    def offered(self) -> Offered:
        """What became of them; hangs up on those that have not been answered."""
        if self._busy:
            self._faults[f"no answer within {GRACE_S:g} s of the last request"] = len(self._busy)
        for connection in (*self._idle, *self._busy):
            connection.close()
        return Offered(
            self._due_s,
            self._late_s,
            self._status.copy(),
            self._latency_s.copy(),
            self._has_retry_after.copy(),
            self._most,
            dict(self._faults),
        )

    def _begin(self, number: int) -> None:
        self._late_s[number] = time.perf_counter() - self._start_s - self._due_s[number]
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                self._send(number, connection)
                return
        if len(self._busy) + len(self._opening) < self._limit:
            task = asyncio.create_task(self._open_and_send(number))
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)
            self._status[number] = NO_ANSWER

    async def _open_and_send(self, number: int) -> None:
        try:
            connection = await Connection.open(self._port)
        except OSError as exc:
            self._faults[str(exc)] += 1
            return
        self._send(number, connection)

    def _send(self, number: int, connection: Connection) -> None:
        self._busy.add(connection)
        self._status[number] = NO_ANSWER
        self._most = max(self._most, len(self._busy) + len(self._idle))
        connection.send(self._requests[number % len(self._requests)], partial(self._done, number, connection))

    def _done(self, number: int, connection: Connection, answer: Answer) -> None:
        self._busy.discard(connection)
        self._status[number] = answer.status
        if answer.status:
            self._latency_s[number] = answer.at_s - self._start_s - self._due_s[number]
            self._has_retry_after[number] = answer.header(b"retry-after") is not None
        else:
            self._faults[answer.body.decode(errors="replace")] += 1
        if connection.is_open:
            self._idle.append(connection)
