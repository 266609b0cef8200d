"""HTTP/1.1 as a load generator needs it: requests in bytes, answers out of bytes, and a small asyncio client."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast
from urllib.parse import urlsplit

HOST = "127.0.0.1"
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked", re.IGNORECASE)
_SIZE = re.compile(rb"[0-9a-fA-F]+")
_CLOSES = re.compile(rb"\r\nconnection:[ \t]*close", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    prefix: str = ""
    """Of every path."""

    @classmethod
    def parse(cls, url: str) -> Target:
        """The target of an `http://` URL. Raises `ValueError` where it is none, in words."""
        parts = urlsplit(url)
        if parts.scheme == "https":
            raise ValueError(f"{url}: the load generator speaks no TLS; name the http:// address behind the proxy")
        if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment or parts.username:
            raise ValueError(f"{url!r} is no URL such as http://127.0.0.1:3000")
        return cls(parts.hostname, parts.port or 80, parts.path.rstrip("/"))

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def request(
    body: bytes, headers: Mapping[str, str] | None = None, *, path: str = "/predict", host: str = HOST
) -> bytes:
    """The bytes of a POST with a JSON body."""
    given = {"Host": host, "Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in given.items())
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Received(NamedTuple):
    """An answer as it came."""

    status: int
    head: bytes
    """Status line and headers."""
    body: bytes
    closes: bool
    """Whether the server closes the connection after it."""


class NoAnswer(ValueError):
    """What came is no answer that can be read."""


class Reader:
    """Finds answers in the bytes of one connection, which has at most one request in flight."""

    __slots__ = ("_received",)

    def __init__(self) -> None:
        self._received = b""

    def feed(self, data: bytes) -> Received | None:
        """The answer whose last bytes are `data`; None where more are to come. Raises `NoAnswer`."""
        if self._received:
            data = self._received + data
        head_end = data.find(b"\r\n\r\n") + 4
        if head_end < 4:
            self._received = data
            return None
        status = _STATUS.match(data)
        if not status:
            raise NoAnswer("something that is no answer in HTTP/1.1")
        length = _LENGTH.search(data, 0, head_end)
        if length is None:
            body, end = _chunks(data, head_end)
        else:
            end = head_end + int(length[1])
            body = data[head_end:end]
        if not head_end <= end <= len(data):
            self._received = data
            return None
        self._received = data[end:]
        head = data[:head_end]
        return Received(int(status[1]), head, body, _CLOSES.search(head) is not None)


def _chunks(data: bytes, head_end: int) -> tuple[bytes, int]:
    """The body that begins at `head_end` in chunks, and where it ends: before that where more is to come (RFC 9112)."""
    if not _CHUNKED.search(data, 0, head_end):
        raise NoAnswer("an answer with neither Content-Length nor chunks")
    body, at = b"", head_end
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = _SIZE.match(data, at)
        if not size:
            raise NoAnswer("an answer in chunks without their lengths")
        length = int(size[0], 16)
        if not length:  # fields may follow, and an empty line
            return body, data.find(b"\r\n\r\n", line_end) + 4
        body += data[line_end + 2 : line_end + 2 + length]
        at = line_end + 2 + length + 2
    return body, 0


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


class Connection(asyncio.Protocol):
    """One kept-alive connection with at most one request in flight; it tells `done` each answer."""

    def __init__(self) -> None:
        self.is_open = False
        self._done: Callable[[Answer], None] | None = None
        self._reader = Reader()

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
        try:
            received = self._reader.feed(data)
        except NoAnswer as exc:
            self._transport.close()
            self._tell(Answer(0, str(exc).encode(), time.perf_counter()))
            return
        if received is None:
            return
        if received.closes:
            self.is_open = False
            self._transport.close()
        self._tell(Answer(received.status, received.body, time.perf_counter(), received.head.lower()))

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
