"""One HTTP exchange by ASGI: what came in, what goes back, and the headers that Causeway understands."""

from __future__ import annotations

import asyncio
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

from causeway import errors, tracing
from causeway.batching import Priority
from causeway.monitoring import batch
from causeway.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Mapping[bytes, bytes]
T = TypeVar("T")
Phases = tuple[float, float, float, float]
"""Seconds of decoding, in the queue, computing and encoding."""

BEGAN = "causeway.began"
"""In a scope: when the request came, on `time.perf_counter`, where it was held up before it was handed over."""

SKIPPED_BYTES = 64 * 1024
"""How much of a refused body the server may have to skip on a connection that goes on; with more, it is closed."""

LINGER_S = 5.0
LINGER_IDLE_S = 1.0
"""How long, and how long without a byte, the rest of a refused body is taken off a connection before it is closed.
A sender that is cut off at once finds a reset connection and never reads the refusal."""


class Answer(NamedTuple):
    """What goes back."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class Request:
    """What came in: headers at once, the body when it is asked for."""

    __slots__ = (
        "_is_withheld",
        "_unread_bytes",
        "answered",
        "headers",
        "id",
        "receive",
        "scope",
        "started",
        "trace",
        "variant",
    )

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.started: float = scope.get(BEGAN) or time.perf_counter()
        self.id = new_request_id()
        self.scope = scope
        self.receive = receive
        self.variant: tuple[str, str] | None = None
        self.answered: batch.Answer | None = None
        """What it was answered with, where that was predictions."""
        self.trace: tracing.Trace | None = None
        self.headers: Headers = dict(scope["headers"])
        chunked = b"transfer-encoding" in self.headers
        self._unread_bytes = math.inf if chunked else int(self.headers.get(b"content-length", 0))
        # Until it is asked for: its sender waits for "100 Continue", or the server took "Upgrade" at its word.
        self._is_withheld = b"expect" in self.headers or b"upgrade" in self.headers

    def identify(self) -> None:
        """Takes over the caller's X-Request-ID and trace.

        Raises `InvalidHeader`, also where a header of ours is given twice.
        """
        if len(self.headers) < len(self.scope["headers"]):
            names = [name for name, _ in self.scope["headers"]]
            for name, title in _SINGLE.items():
                if names.count(name) > 1:
                    raise errors.InvalidHeader(title, "given once")
        traceparent = self.headers.get(b"traceparent")
        if traceparent is not None:
            self.trace = tracing.parse(traceparent)
        self.id = header_value(self.headers, b"x-request-id") or self.id

    async def pieces(self, limit_bytes: int) -> list[bytes]:
        """The whole body, as it came. Raises `BodyTooLarge` as soon as it is known to be, and `ClientGone`."""
        if self._unread_bytes and b"upgrade" in self.headers:
            # The HTTP parser stops at the head: it loses the body, or takes it for the next request.
            raise errors.InvalidHeader("Upgrade", "left out: the service speaks HTTP/1.1")
        if limit_bytes < self._unread_bytes < math.inf:
            raise errors.BodyTooLarge(limit_bytes)
        pieces, size = [], 0
        self._is_withheld = False
        while self._unread_bytes:
            piece = self._taken(await self.receive())
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                raise errors.BodyTooLarge(limit_bytes)
        return pieces

    def is_gone(self) -> bool:
        """Whether the client is known to have hung up; for a request whose body has been read."""
        message = self.receive().__await__()
        try:
            next(message)
        except StopIteration as received:
            return bool(received.value["type"] == "http.disconnect")
        message.close()  # there is none yet
        return False

    async def gone(self) -> Exception:
        """Returns once the client has hung up; for a request whose body has been read."""
        while (await self.receive())["type"] != "http.disconnect":
            pass
        return errors.ClientGone()

    async def unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of long work, once the body has been read. Raises `ClientGone` where the client hangs up first."""
        working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(self.gone())
        try:
            await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise leaving.result()
            return working.result()
        finally:
            working.cancel()
            leaving.cancel()

    async def answer(self, answer: Answer, send: Send) -> None:
        """Sends it, and closes the connection where too much of the body is left, or it is unclear what comes next."""
        closes = self._unread_bytes > (0 if self._is_withheld else SKIPPED_BYTES)
        headers = answer.headers
        if self.trace is not None:
            headers = (*headers, (b"traceparent", self.trace.parent))
        if closes:
            headers = (*headers, (b"connection", b"close"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": closes})
        if closes:
            await self._linger()
            await send({"type": "http.response.body", "body": b""})

    def _taken(self, message: Message) -> bytes:
        """The piece of the body that a message has."""
        if message["type"] == "http.disconnect":
            raise errors.ClientGone()
        piece: bytes = message.get("body", b"")
        self._unread_bytes = max(1, self._unread_bytes - len(piece)) if message.get("more_body") else 0
        return piece

    async def _linger(self) -> None:
        with suppress(TimeoutError, errors.ClientGone):
            async with asyncio.timeout(LINGER_S):
                while self._unread_bytes:
                    async with asyncio.timeout(LINGER_IDLE_S):
                        self._taken(await self.receive())


Endpoint = Callable[[Request], Awaitable[Answer]]
"""Returns the answer, or raises a `Refusal`."""


def new_request_id() -> str:
    """32 random hexadecimal digits."""
    if not _ids:
        digits = _random.randbytes(16 * IDS).hex()
        _ids.extend(digits[start : start + 32] for start in range(0, 32 * IDS, 32))
    return _ids.pop()


IDS = 256
"""Request ids that are drawn at once: in a third of the time."""

_ids: list[str] = []
_random = random.Random()  # noqa: S311 - unique, not secret; seeded by the operating system in each process


def header_value(headers: Headers, name: bytes) -> str | None:
    """The value of one of our headers, None where it is not given. Raises `InvalidHeader`."""
    value = headers.get(name)
    if value is None:
        return None
    title, form, expected = _FORMS[name]
    if not form.fullmatch(value.strip()):
        raise errors.InvalidHeader(title, expected)
    return value.strip().decode("ascii")


_FORMS = {
    b"x-request-id": ("X-Request-ID", re.compile(rb"[!-~]{1,128}"), "1 to 128 printable ASCII characters, no spaces"),
    b"x-routing-key": ("X-Routing-Key", re.compile(rb"[ -~]{1,256}"), "1 to 256 printable ASCII characters"),
    b"x-model-version": ("X-Model-Version", re.compile(rb"[!-~]{1,127}"), "a model tag, name:version"),
    b"x-timeout-ms": (
        "X-Timeout-Ms",
        re.compile(rb"(?=.*[1-9])[0-9]{1,9}(\.[0-9]{1,6})?"),
        "a positive number of milliseconds in plain decimals, such as 250 or 0.5",
    ),
    b"x-priority": ("X-Priority", re.compile(rb"interactive|bulk"), "interactive or bulk"),
}
_SINGLE = {
    b"content-type": "Content-Type",
    b"authorization": "Authorization",
    **{name: form[0] for name, form in _FORMS.items()},
}


_CONTENT_JSON = (b"content-type", b"application/json")


def json_answer(status: int, body: bytes, request_id: str, *extra: tuple[bytes, bytes]) -> Answer:
    return Answer(status, body, (_CONTENT_JSON, length(body), (b"x-request-id", request_id.encode()), *extra))


def length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)


class RequestHeaders(NamedTuple):
    """The headers that POST /predict understands."""

    timeout_ms: float
    routing_key: str | None
    model_version: str | None
    priority: Priority

    @classmethod
    def parse(cls, headers: Headers, settings: Settings) -> RequestHeaders:
        """Reads and checks them. Raises `InvalidHeader` or `UnsupportedMediaType`."""
        content_type = headers.get(b"content-type", b"application/json")
        if (
            content_type != b"application/json" and not _JSON.fullmatch(content_type)
        ) or b"content-encoding" in headers:
            raise errors.UnsupportedMediaType()
        timeout_ms = header_value(headers, b"x-timeout-ms")
        return cls(
            settings.timeout_ms if timeout_ms is None else min(float(timeout_ms), settings.max_timeout_ms),
            header_value(headers, b"x-routing-key"),
            header_value(headers, b"x-model-version"),
            "bulk" if header_value(headers, b"x-priority") == "bulk" else "interactive",
        )


_JSON = re.compile(rb'application/json[ \t]*(;[ \t]*(charset=("?)utf-8\3)?[ \t]*)?', re.IGNORECASE)


def server_timing(receive_s: float, phases: Phases, batch_rows: int, released: str) -> bytes:
    """Where the time went, as browsers show it (W3C Server Timing); durations in milliseconds."""
    decode_s, queue_s, compute_s, encode_s = phases
    return (
        b'receive;dur=%.3f, decode;dur=%.3f, queue;dur=%.3f, compute;dur=%.3f;desc="%d rows, %b", encode;dur=%.3f'
        % (
            receive_s * 1000,
            decode_s * 1000,
            queue_s * 1000,
            compute_s * 1000,
            batch_rows,
            released.encode(),
            encode_s * 1000,
        )
    )
