"""The open-loop load generator: requests go out on a schedule, whether or not earlier ones were answered.

Latency counts from the moment at which a request was meant to go out, so a server that stalls, and a generator that is
late, both show in it (no coordinated omission).

It waits on its sockets itself. The timers of event loops are a millisecond apart, and uvloop writes only after it has
read whatever came meanwhile: either would count as the server's time.
"""

from __future__ import annotations

import errno
import gc
import os
import select
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from load_tests.open_loop.client import HOST, NoAnswer, Reader, Received
from load_tests.open_loop.offered import REFUSALS, Offered, Sender
from load_tests.open_loop.record import NO_ANSWER, UNSENT, Record
from load_tests.open_loop.timer import Timer

GRACE_S = 5.0
"""How long answers are awaited after the last request was due."""

LEAD_S = 0.2
"""Between the start of the clock and the first request."""

NOTHING = -1
"""In place of a request's number."""

IDLE_S = 4.0
"""A connection that was idle for longer is not used again: many servers close them after 5 s, even while a request is
on its way."""

BURST = 16
"""Requests that may go out before answers are looked at again, where the generator is behind its schedule."""

READ_BYTES = 65_536

HUNG_UP_ONLY = 0
"""Events to be told of: select.epoll tells in any case that the other end is closed."""

NO_WAIT, ANY_TIME = 0, -1
"""Of select.epoll, which waits for the timer among others."""

Check = Callable[[int, bytes], str | None]
"""What is wrong with the body of an answer 200 to the request at a place; None where nothing is."""


def offer(
    port: int, requests: Sequence[bytes], due_s: NDArray[np.float64], *, connections: int, check: Check | None = None
) -> Offered:
    """Sends `requests` in turn at the times `due_s` to the loopback, on at most `connections` connections."""
    record = Record.of(due_s, np.arange(len(due_s)) % len(requests))
    generator = Generator((HOST, port), requests, connections, check)
    began, start_s = time.time() + LEAD_S, perf_counter() + LEAD_S
    try:
        sender = generator.offer(record, start_s)
    finally:
        generator.close()
    return Offered.of([record], [sender], began)


class _Connection:
    """A socket and the number of the request that is in flight on it, or `NOTHING`."""

    __slots__ = ("fd", "feed", "idle_since_s", "number", "receive", "rest", "send", "socket")

    def __init__(self, opened: socket.socket, number: int) -> None:
        self.socket = opened
        self.fd = opened.fileno()
        self.send, self.receive, self.feed = opened.send, opened.recv, Reader().feed
        self.number = number
        self.idle_since_s = 0.0
        """On time.perf_counter."""
        self.rest: bytes | None = None
        """What of the request the socket did not take yet; None while the connection is being opened."""


class Generator:
    """Sends schedules one after the other to one address, and keeps its connections between them."""

    def __init__(
        self,
        address: tuple[str, int],
        requests: Sequence[bytes],
        limit: int,
        check: Check | None = None,
        owner: int | None = None,
    ) -> None:
        """`limit` is the most connections. Where the other end of the pipe `owner` is closed, sending ends."""
        self._address, self._requests, self._limit, self._check = address, requests, limit, check
        self._family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._timer = Timer()
        self._epoll = select.epoll()
        self._epoll.register(self._timer.fd, select.EPOLLIN)
        self._owner = owner
        if owner is not None:
            self._epoll.register(owner, HUNG_UP_ONLY)
        self._connections: dict[int, _Connection] = {}
        self._idle: list[_Connection] = []

    def close(self) -> None:
        """Hangs up."""
        for connection in list(self._connections.values()):
            self._forget(connection)
        self._epoll.close()
        self._timer.close()

    def offer(self, record: Record, start_s: float) -> Sender:
        """Sends the schedule of `record`, whose 0 is at `start_s` of time.perf_counter(); notes in it what comes."""
        self._record, self._start_s = record, start_s
        self._begun = self._finished = 0
        self._most = len(self._connections)
        self._faults: Counter[str] = Counter()
        with _no_garbage_collection():
            cpu_s = time.process_time()
            self._send_all()
            self._await_the_last()
            return Sender(self._most, dict(self._faults), time.process_time() - cpu_s)

    def _send_all(self) -> None:
        record, armed_s = self._record, 0.0
        while self._begun < record.n:
            next_s = self._start_s + record.due_s[self._begun]
            if perf_counter() >= next_s:
                self._turn(NO_WAIT)
                continue
            if next_s != armed_s:
                self._timer.set(next_s)
                armed_s = next_s
            self._turn(ANY_TIME)

    def _await_the_last(self) -> None:
        give_up_s = perf_counter() + GRACE_S
        self._timer.set(give_up_s)
        while self._finished < self._record.n and perf_counter() < give_up_s:
            self._turn(ANY_TIME)
        for connection in list(self._connections.values()):
            if connection.number != NOTHING:
                self._lose(connection, f"no answer within {GRACE_S:g} s of the last request")

    def _turn(self, timeout: int) -> None:
        """Reads what has come, and sends what is due before and between."""
        ready = self._epoll.poll(timeout)
        self._send_due()
        for fd, events in ready:
            connection = self._connections.get(fd)
            if connection is not None:
                if events & select.EPOLLIN:
                    self._read(connection)
                else:
                    self._write(connection)
                self._send_due()
            elif fd == self._owner:
                raise SystemExit("nobody is left who asked for this load")

    def _send_due(self) -> None:
        due_s, start_s, number = self._record.due_s, self._start_s, self._begun
        last = min(number + BURST, self._record.n)
        while number < last and (now_s := perf_counter() - start_s) >= due_s[number]:
            self._begin(number, now_s)
            number += 1
        self._begun = number

    def _begin(self, number: int, now_s: float) -> None:
        """Turns to request `number`; `now_s` is from the schedule's 0, as everywhere here."""
        record = self._record
        record.late_s[number] = now_s - record.due_s[number]
        record.counts[0] = number + 1
        connection = self._usable(self._start_s + now_s)
        if connection:
            self._send(connection, number, now_s)
        elif len(self._connections) < self._limit:
            self._open(number)
        else:
            self._finish(number, UNSENT)

    def _usable(self, now_s: float) -> _Connection | None:
        """The connection that was used last, if the server still keeps it; `now_s` is on time.perf_counter."""
        if not self._idle:
            return None
        connection = self._idle.pop()
        if now_s - connection.idle_since_s <= IDLE_S:
            return connection
        self._forget(connection)  # the others are older: hung up on one by one, as all at once take long
        return None

    def _open(self, number: int) -> None:
        """A connection for request `number`, which goes out once it stands."""
        try:
            opened = socket.socket(self._family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            error = opened.connect_ex(self._address)
        except OSError as exc:
            self._fail(number, str(exc))
            return
        connection = _Connection(opened, number)
        self._connections[connection.fd] = connection
        self._most = max(self._most, len(self._connections))
        self._epoll.register(connection.fd, select.EPOLLOUT)
        if error not in (0, errno.EINPROGRESS):
            self._lose(connection, os.strerror(error))

    def _send(self, connection: _Connection, number: int, now_s: float) -> None:
        connection.number = number
        self._record.sent_s[number] = now_s
        self._push(connection, self._requests[self._record.place[number]])

    def _push(self, connection: _Connection, data: bytes) -> None:
        """Gives the socket as much as it takes; the rest goes out once it takes more."""
        try:
            n_taken = connection.send(data)
        except OSError as exc:
            self._lose(connection, f"the connection was lost: {exc}")
            return
        if n_taken < len(data):
            self._epoll.modify(connection.fd, select.EPOLLIN | select.EPOLLOUT)
        elif connection.rest:
            self._epoll.modify(connection.fd, select.EPOLLIN)
        connection.rest = data[n_taken:]

    def _write(self, connection: _Connection) -> None:
        if connection.rest is not None:
            self._push(connection, connection.rest)
            return
        error = connection.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._lose(connection, os.strerror(error))
            return
        connection.rest = b""
        self._epoll.modify(connection.fd, select.EPOLLIN)
        self._send(connection, connection.number, perf_counter() - self._start_s)

    def _read(self, connection: _Connection) -> None:
        try:
            data = connection.receive(READ_BYTES)
            now_s = perf_counter() - self._start_s
            answer = connection.feed(data) if data else None
        except BlockingIOError:
            return
        except OSError as exc:
            self._lose(connection, f"the connection was lost: {exc}")
            return
        except NoAnswer as exc:
            self._lose(connection, str(exc))
            return
        if connection.number == NOTHING or not data:
            self._lose(connection, "the connection was closed before the answer")
        elif answer is not None:
            self._take(connection, answer, now_s)

    def _take(self, connection: _Connection, answer: Received, now_s: float) -> None:
        record, number, (status, head, body, closes) = self._record, connection.number, answer
        record.latency_s[number] = now_s - record.due_s[number]
        if status != 200:
            self._note(number, status, head)
        elif self._check and (why := self._check(record.place[number], body)):
            record.is_wrong[number] = True
            self._faults[why] += 1
        self._finish(number, status)
        connection.number = NOTHING
        if closes or connection.rest:
            self._forget(connection)
        else:
            connection.idle_since_s = self._start_s + now_s
            self._idle.append(connection)

    def _note(self, number: int, status: int, head: bytes) -> None:
        self._record.has_retry_after[number] = b"\r\nretry-after:" in head.lower()
        if status not in REFUSALS:
            self._faults[f"status {status}"] += 1

    def _lose(self, connection: _Connection, why: str) -> None:
        """Hangs up; the request in flight, if any, gets no answer."""
        if connection.number == NOTHING:
            self._idle.remove(connection)
        else:
            self._fail(connection.number, why)
        self._forget(connection)

    def _forget(self, connection: _Connection) -> None:
        del self._connections[connection.fd]
        connection.socket.close()

    def _fail(self, number: int, why: str) -> None:
        self._faults[why] += 1
        self._finish(number, NO_ANSWER)

    def _finish(self, number: int, status: int) -> None:
        record, n = self._record, self._finished
        record.status[number] = status
        record.finished[n] = number
        record.counts[1] = self._finished = n + 1


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection stops everything, for milliseconds; a schedule makes no cycles that it could find."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
