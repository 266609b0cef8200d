"""A small asyncio HTTP/1.1 client that costs little and notes when bytes came."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import cast

HOST = "127.0.0.1"
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, or how none came: `status` is then 0 and `body` says why."""

    status: int
    body: bytes
    at_s: float
    """time.perf_counter() when its last byte was here."""
    head: bytes = b""
    """Status line and headers in lower case."""

    def header(self, name: bytes) -> bytes | None:
        """The value of the header `name`, which is in lower case."""
        _, is_there, rest = self.head.partition(b"\r\n" + name + b":")
        return rest.partition(b"\r\n")[0].strip() if is_there else None


def request(body: bytes, headers: Mapping[str, str] | None = None, *, path: str = "/predict") -> bytes:
    """The bytes of a POST with a JSON body."""
    given = {"Host": HOST, "Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request in flight; it tells `done` each answer."""

    def __init__(self) -> None:
        self.is_open = False
        self._done: Callable[[Answer], None] | None = None
        self._received = bytearray()
        self._end = 0

    @classmethod
    async def open(cls, port: int) -> Connection:
        """A connection to the loopback. Raises `OSError`."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, HOST, port)
        return connection

    def send(self, request: bytes, done: Callable[[Answer], None]) -> None:
        """Sends now; `done` is called once, with the answer or with status 0."""
        assert self._done is None, "one request at a time"
        self._done = done
        if self.is_open:
            self._transport.write(request)
        else:
            self._tell(Answer(0, b"the connection was closed", time.perf_counter()))

    async def ask(self, request: bytes) -> Answer:
        """Sends and waits for the answer."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.send(request, answer.set_result)
        return await answer

    def close(self) -> None:
        """Hangs up, whatever is in flight."""
        if self.is_open:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        self._received += data
        if not self._end:
            head_end = self._received.find(b"\r\n\r\n") + 4
            if head_end < 4:
                return
            length = _LENGTH.search(self._received, 0, head_end)
            if length is None:
                self._transport.close()
                self._tell(Answer(0, b"an answer without Content-Length", time.perf_counter()))
                return
            self._head_end, self._end = head_end, head_end + int(length[1])
        if len(self._received) >= self._end:
            head = bytes(self._received[: self._head_end]).lower()
            body = bytes(self._received[self._head_end : self._end])
            del self._received[: self._end]
            self._end = 0
            if b"\r\nconnection: close" in head:
                self.is_open = False
                self._transport.close()
            self._tell(Answer(int(head[9:12]), body, time.perf_counter(), head))

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_open = False
        if self._done is not None:
            self._tell(Answer(0, f"the connection was lost: {exc}".encode(), time.perf_counter()))

    def _tell(self, answer: Answer) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(answer)


async def ask_all(port: int, requests: Iterable[bytes], *, at_once: int = 16) -> list[Answer]:
    """The answers to all requests, in their order, `at_once` in flight at any time."""
    waiting = list(enumerate(requests))[::-1]
    answers: dict[int, Answer] = {}

    async def caller() -> None:
        connection = await Connection.open(port)
        while waiting:
            place, asked = waiting.pop()
            if not connection.is_open:
                connection = await Connection.open(port)
            answers[place] = await connection.ask(asked)
        connection.close()

    await asyncio.gather(*(caller() for _ in range(min(at_once, len(waiting)))))
    return [answers[place] for place in sorted(answers)]


def ask(port: int, request: bytes, *, timeout_s: float = 30) -> Answer:
    """One answer on a connection of its own. Raises `OSError`, or `TimeoutError`, which is one."""

    async def once() -> Answer:
        async with asyncio.timeout(timeout_s):
            (answer,) = await ask_all(port, [request])
            return answer

    return asyncio.run(once())
