"""The wire contract: POST /predict and GET /health, bytes in and bytes out.

`Rest` is an ASGI application in front of BentoML's. It answers its own paths, hands BentoML's on, and refuses
every other path, so that each refusal is one JSON object in the same form.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from causeway import codec, errors, logs, openapi
from causeway.contract import Array
from causeway.deployment import Deployment, Variant
from causeway.monitoring.metrics import Metrics
from causeway.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Mapping[bytes, bytes]

BENTOML_PATHS = ("/schema.json", "/livez", "/readyz", "/healthz", "/metrics")
BENTOML_STATIC = "/static_content/"
READ = ("GET", "HEAD")

DECODE_ON_LOOP_BYTES = 64 * 1024
"""A larger body is decoded in a thread."""

SKIPPED_BYTES = 64 * 1024
"""How much of a refused body the server may have to skip on a connection that goes on; with more, it is closed."""

LINGER_S = 5.0
LINGER_IDLE_S = 1.0
"""How long, and how long without a byte, the rest of a refused body is taken off a connection before it is closed.
A sender that is cut off at once finds a reset connection and never reads the refusal."""


class Rest:
    """ASGI application: answers our paths, hands BentoML's on, refuses the rest."""

    def __init__(self, app: App, *, deployment: Deployment, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._deployment = deployment
        self._settings = settings
        self._metrics = metrics
        self._endpoints: Mapping[str, tuple[Endpoint, tuple[str, ...]]] = {
            "/predict": (self._predict, ("POST",)),
            "/health": (self._health, READ),
            "/": (self._page, READ),
            "/docs.json": (self._docs, READ),
            **dict.fromkeys((*BENTOML_PATHS, BENTOML_STATIC), (self._bentoml, READ)),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            scope, send = {**scope, "method": "WEBSOCKET"}, _instead_of_websocket(send)
        started = time.perf_counter()
        request = Request(scope, receive)
        path = BENTOML_STATIC if scope["path"].startswith(BENTOML_STATIC) else scope["path"]
        try:
            request.identify()
            answer = await self._endpoint(path, scope["method"])(request)
        except Exception as exc:
            answer = _refused(exc, request.id)
        await request.answer(answer, send)
        endpoint = path if path in self._endpoints else "other"
        self._metrics.answered(endpoint, answer.status, time.perf_counter() - started)

    def _endpoint(self, path: str, method: str) -> Endpoint:
        """What answers this path and method. Raises `NotFound` or `MethodNotAllowed`."""
        if path not in self._endpoints:
            raise errors.NotFound(("POST /predict", "GET /health", "GET /"))
        endpoint, methods = self._endpoints[path]
        if method not in methods:
            raise errors.MethodNotAllowed(methods)
        return endpoint

    async def _predict(self, request: Request) -> Answer:
        started = time.perf_counter()
        asked = RequestHeaders.parse(request.headers, self._settings)
        try:
            async with asyncio.timeout(asked.timeout_ms / 1000):
                body = await request.body(self._settings.max_body_bytes)
                variant = self._deployment.champion
                X = await self._decode(body, variant)
                predictions = await variant.predict(X)
        except TimeoutError:
            raise errors.DeadlineExceeded(asked.timeout_ms) from None
        latency_ms = (time.perf_counter() - started) * 1000
        if latency_ms > asked.timeout_ms:
            raise errors.DeadlineExceeded(asked.timeout_ms)
        answer = codec.answer(predictions, variant.version.tag, variant.role, request.id, latency_ms)
        return _json(200, codec.encode(answer), request.id)

    async def _decode(self, body: bytes, variant: Variant) -> Array:
        arguments = (body, variant.version.contract, self._settings.max_rows)
        if len(body) <= DECODE_ON_LOOP_BYTES:
            return codec.decode(*arguments)
        return await asyncio.to_thread(codec.decode, *arguments)

    async def _health(self, request: Request) -> Answer:
        body = {"status": "healthy", "version": self._deployment.champion.version.tag}
        return _json(200, json.dumps(body).encode(), request.id)

    async def _docs(self, request: Request) -> Answer:
        version = self._deployment.champion.version if self._deployment.is_ready else None
        document = openapi.document(version, self._settings)
        return _json(200, json.dumps(document, allow_nan=False).encode(), request.id)

    async def _page(self, request: Request) -> Answer:
        return Answer(200, openapi.PAGE, ((b"content-type", b"text/html; charset=utf-8"), _length(openapi.PAGE)))

    async def _bentoml(self, request: Request) -> Answer:
        """BentoML's own answer. Raises its refusals in our form."""
        sent: list[Message] = []

        async def keep(message: Message) -> None:
            sent.append(message)

        await self._app(request.scope, request.receive, keep)
        start, *parts = sent
        if start["status"] == 503:
            raise errors.NotReady("GET /health tells why")
        if start["status"] in (400, 416):
            raise errors.InvalidHeader("Range", "a range of bytes that the file has")
        if start["status"] >= 400:
            raise errors.NotFound(("GET /",))
        return Answer(start["status"], b"".join(part.get("body", b"") for part in parts), tuple(start["headers"]))


@dataclass(frozen=True)
class Answer:
    """What goes back."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class Request:
    """What came in: headers at once, the body when it is asked for."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.id = new_request_id()
        self.scope = scope
        self.receive = receive
        self.headers: Headers = dict(scope["headers"])
        chunked = b"transfer-encoding" in self.headers
        self._unread_bytes = math.inf if chunked else int(self.headers.get(b"content-length", 0))
        # Until it is asked for: its sender waits for "100 Continue", or the server took "Upgrade" at its word.
        self._is_withheld = b"expect" in self.headers or b"upgrade" in self.headers

    def identify(self) -> None:
        """Takes over the caller's X-Request-ID. Raises `InvalidHeader`, also where a header of ours is given twice."""
        if len(self.headers) < len(self.scope["headers"]):
            names = [name for name, _ in self.scope["headers"]]
            for name, title in _SINGLE.items():
                if names.count(name) > 1:
                    raise errors.InvalidHeader(title, "given once")
        self.id = _value(self.headers, b"x-request-id") or self.id

    async def body(self, limit_bytes: int) -> bytes:
        """The whole body. Raises `BodyTooLarge` as soon as it is known to be, and `ClientGone`."""
        if self._unread_bytes and b"upgrade" in self.headers:
            # The HTTP parser stops at the head: it loses the body, or takes it for the next request.
            raise errors.InvalidHeader("Upgrade", "left out: the service speaks HTTP/1.1")
        if limit_bytes < self._unread_bytes < math.inf:
            raise errors.BodyTooLarge(limit_bytes)
        pieces, size = [], 0
        while self._unread_bytes:
            pieces.append(await self._piece())
            size += len(pieces[-1])
            if size > limit_bytes:
                raise errors.BodyTooLarge(limit_bytes)
        return b"".join(pieces)

    async def answer(self, answer: Answer, send: Send) -> None:
        """Sends it, and closes the connection where too much of the body is left, or it is unclear what comes next."""
        closes = self._unread_bytes > (0 if self._is_withheld else SKIPPED_BYTES)
        headers = [*answer.headers, (b"connection", b"close")] if closes else answer.headers
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body, "more_body": closes})
        if closes:
            await self._linger()
            await send({"type": "http.response.body", "body": b""})

    async def _piece(self) -> bytes:
        self._is_withheld = False
        message = await self.receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        piece: bytes = message.get("body", b"")
        self._unread_bytes = max(1, self._unread_bytes - len(piece)) if message.get("more_body") else 0
        return piece

    async def _linger(self) -> None:
        with suppress(TimeoutError, ClientGone):
            async with asyncio.timeout(LINGER_S):
                while self._unread_bytes:
                    async with asyncio.timeout(LINGER_IDLE_S):
                        await self._piece()


Endpoint = Callable[[Request], Awaitable[Answer]]
"""Returns the answer, or raises a `Refusal`."""


class ClientGone(Exception):
    """The client hung up before its request was read."""


@dataclass(frozen=True)
class RequestHeaders:
    """The headers that POST /predict understands."""

    timeout_ms: float
    routing_key: str | None

    @classmethod
    def parse(cls, headers: Headers, settings: Settings) -> RequestHeaders:
        """Reads and checks them. Raises `InvalidHeader` or `UnsupportedMediaType`."""
        if not _JSON.fullmatch(headers.get(b"content-type", b"application/json")) or b"content-encoding" in headers:
            raise errors.UnsupportedMediaType()
        timeout_ms = _value(headers, b"x-timeout-ms")
        return cls(
            settings.timeout_ms if timeout_ms is None else min(float(timeout_ms), settings.max_timeout_ms),
            _value(headers, b"x-routing-key"),
        )


_JSON = re.compile(rb'application/json[ \t]*(;[ \t]*(charset=("?)utf-8\3)?[ \t]*)?', re.IGNORECASE)
_FORMS = {
    b"x-request-id": ("X-Request-ID", re.compile(rb"[!-~]{1,128}"), "1 to 128 printable ASCII characters, no spaces"),
    b"x-routing-key": ("X-Routing-Key", re.compile(rb"[ -~]{1,256}"), "1 to 256 printable ASCII characters"),
    b"x-timeout-ms": (
        "X-Timeout-Ms",
        re.compile(rb"(?=.*[1-9])[0-9]{1,9}(\.[0-9]{1,6})?"),
        "a positive number of milliseconds",
    ),
}
_SINGLE = {b"content-type": "Content-Type"} | {name: form[0] for name, form in _FORMS.items()}


def new_request_id() -> str:
    """32 random hexadecimal digits."""
    return os.urandom(16).hex()


def _value(headers: Headers, name: bytes) -> str | None:
    """The value of one of our headers, None where it is not given. Raises `InvalidHeader`."""
    value = headers.get(name)
    if value is None:
        return None
    title, form, expected = _FORMS[name]
    if not form.fullmatch(value.strip()):
        raise errors.InvalidHeader(title, expected)
    return value.strip().decode("ascii")


def _json(status: int, body: bytes, request_id: str, *extra: tuple[bytes, bytes]) -> Answer:
    content_type = (b"content-type", b"application/json")
    return Answer(status, body, (content_type, _length(body), (b"x-request-id", request_id.encode()), *extra))


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", str(len(body)).encode()


def _refused(exc: Exception, request_id: str) -> Answer:
    """The answer for a refusal; a fault of ours is logged, and told as no more than that."""
    if isinstance(exc, ClientGone):
        return _json(499, b"", request_id)  # nobody reads it, but metrics count it
    refusal = exc if isinstance(exc, errors.Refusal) else errors.InternalError()
    cause = exc.__cause__ if refusal is exc else exc
    if refusal.status >= 500 and cause is not None:
        logs.get().error(refusal.code, request_id=request_id, **refusal.facts, exc_info=cause)
    extra: list[tuple[bytes, bytes]] = []
    if refusal.retry_after_s is not None:
        extra.append((b"retry-after", str(max(1, round(refusal.retry_after_s))).encode()))
    if isinstance(refusal, errors.MethodNotAllowed):
        extra.append((b"allow", ", ".join(refusal.allow).encode()))
    return _json(refusal.status, json.dumps(refusal.body(request_id), allow_nan=False).encode(), request_id, *extra)


def _instead_of_websocket(send: Send) -> Send:
    """Answers a WebSocket handshake with a plain HTTP response (the ASGI extension "websocket.http.response")."""

    async def send_response(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return send_response
