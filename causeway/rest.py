"""The wire contract: POST /predict and GET /health, bytes in and bytes out.

`Rest` is an ASGI middleware around BentoML's application. It answers its own paths, hands BentoML's on, and refuses
every other path, so that each refusal is one JSON object in the same form.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

from causeway import codec, errors, logs, openapi
from causeway.contract import Array
from causeway.deployment import Deployment, Variant
from causeway.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Mapping[bytes, bytes]
Endpoint = Callable[[Headers, str, Receive], Awaitable[bytes]]
"""Headers, request id and body in; the body of a 200 out, or a `Refusal` raised."""

BENTOML_PATHS = frozenset({"/", "/schema.json", "/livez", "/readyz", "/healthz", "/metrics"})
BENTOML_STATIC = "/static_content/"

DECODE_ON_LOOP_BYTES = 64 * 1024
"""A larger body is decoded in a thread."""

DRAIN_BYTES = 64 * 1024 * 1024
DRAIN_S = 2.0
"""How much of a refused body, and for how long, is still taken off the socket, so that its sender gets to read the
refusal instead of a reset connection."""


class ClientGone(Exception):
    """The client hung up before its request was read."""


@dataclass(frozen=True)
class RequestHeaders:
    """The headers that the service understands."""

    timeout_ms: float
    routing_key: str | None

    @classmethod
    def parse(cls, headers: Headers, settings: Settings) -> RequestHeaders:
        """Reads and checks them. Raises `InvalidHeader` or `UnsupportedMediaType`."""
        media_type, _, parameters = headers.get(b"content-type", b"application/json").lower().partition(b";")
        charset = parameters.strip() in (b"", b"charset=utf-8", b'charset="utf-8"')
        if media_type.strip() != b"application/json" or not charset or b"content-encoding" in headers:
            raise errors.UnsupportedMediaType()
        timeout = headers.get(b"x-timeout-ms")
        routing_key = headers.get(b"x-routing-key")
        if routing_key is not None and not _ROUTING_KEY.fullmatch(routing_key):
            raise errors.InvalidHeader("X-Routing-Key", "1 to 256 printable ASCII characters")
        return cls(
            timeout_ms=settings.timeout_ms if timeout is None else min(_timeout_ms(timeout), settings.max_timeout_ms),
            routing_key=None if routing_key is None else routing_key.decode("ascii"),
        )


_REQUEST_ID = re.compile(rb"[!-~]{1,128}")
_ROUTING_KEY = re.compile(rb"[ -~]{1,256}")
_TIMEOUT_MS = re.compile(rb"[0-9]{1,9}(\.[0-9]{1,6})?")


def new_request_id() -> str:
    """32 random hexadecimal digits."""
    return os.urandom(16).hex()


def request_id(headers: Headers) -> str:
    """The caller's X-Request-ID, or a new random one. Raises `InvalidHeader`."""
    given = headers.get(b"x-request-id")
    if given is None:
        return new_request_id()
    if not _REQUEST_ID.fullmatch(given):
        raise errors.InvalidHeader("X-Request-ID", "1 to 128 printable ASCII characters without spaces")
    return given.decode("ascii")


def _timeout_ms(value: bytes) -> float:
    if not _TIMEOUT_MS.fullmatch(value) or float(value) <= 0:
        raise errors.InvalidHeader("X-Timeout-Ms", "a positive number of milliseconds")
    return float(value)


class Rest:
    """ASGI middleware: answers our paths, hands BentoML's on, refuses the rest."""

    def __init__(self, app: App, *, deployment: Deployment, settings: Settings) -> None:
        self._app = app
        self._deployment = deployment
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if path == "/predict":
            await self._answer(self._predict, ("POST",), scope, receive, send)
        elif path == "/health":
            await self._answer(self._health, ("GET", "HEAD"), scope, receive, send)
        elif path == "/docs.json":
            await self._answer(self._docs, ("GET", "HEAD"), scope, receive, send)
        elif (path in BENTOML_PATHS or path.startswith(BENTOML_STATIC)) and method in ("GET", "HEAD"):
            await self._app(scope, receive, send)
        elif path in BENTOML_PATHS:
            await self._answer(self._not_found, ("GET", "HEAD"), scope, receive, send)
        else:
            await self._answer(self._not_found, (method,), scope, receive, send)

    async def _answer(
        self,
        endpoint: Endpoint,
        methods: tuple[str, ...],
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Sends what `endpoint` returns, or the refusal that it raises; nothing else leaves."""
        refusal: errors.Refusal
        answer_id = new_request_id()
        try:
            headers = _headers(scope)
            answer_id = request_id(headers)
            if scope["method"] not in methods:
                raise errors.MethodNotAllowed(methods)
            await _send(send, 200, await endpoint(headers, answer_id, receive), answer_id)
            return
        except ClientGone:
            return
        except errors.Refusal as exc:
            refusal = exc
            if refusal.status >= 500 and refusal.__cause__ is not None:
                logs.get().error(refusal.code, request_id=answer_id, **refusal.facts, exc_info=refusal.__cause__)
        except Exception as exc:
            refusal = errors.InternalError()
            logs.get().error(refusal.code, request_id=answer_id, exc_info=exc)
        await _refuse(receive, send, refusal, answer_id)

    async def _predict(self, raw: Headers, answer_id: str, receive: Receive) -> bytes:
        started = time.perf_counter()
        headers = RequestHeaders.parse(raw, self._settings)
        try:
            async with asyncio.timeout(headers.timeout_ms / 1000):
                body = await read_body(raw, receive, self._settings.max_body_bytes)
                variant = self._deployment.champion
                X = await self._decode(body, variant)
                predictions = await variant.predict(X)
        except TimeoutError:
            raise errors.DeadlineExceeded(headers.timeout_ms) from None
        latency_ms = (time.perf_counter() - started) * 1000
        if latency_ms > headers.timeout_ms:
            raise errors.DeadlineExceeded(headers.timeout_ms)
        answer = codec.answer(predictions, variant.version.tag, variant.role, answer_id, latency_ms)
        return codec.encode(answer)

    async def _decode(self, body: bytes, variant: Variant) -> Array:
        arguments = (body, variant.version.contract, self._settings.max_rows)
        if len(body) <= DECODE_ON_LOOP_BYTES:
            return codec.decode(*arguments)
        return await asyncio.to_thread(codec.decode, *arguments)

    async def _health(self, headers: Headers, answer_id: str, receive: Receive) -> bytes:
        version = self._deployment.champion.version.tag
        return _json({"status": "healthy", "version": version})

    async def _docs(self, headers: Headers, answer_id: str, receive: Receive) -> bytes:
        version = self._deployment.champion.version if self._deployment.is_ready else None
        return _json(openapi.document(version, self._settings))

    async def _not_found(self, headers: Headers, answer_id: str, receive: Receive) -> bytes:
        raise errors.NotFound(("POST /predict", "GET /health", "GET /"))


async def read_body(headers: Headers, receive: Receive, limit_bytes: int) -> bytes:
    """The whole request body. Raises `BodyTooLarge` as soon as it is known to be, and `ClientGone`."""
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > limit_bytes:
        raise errors.BodyTooLarge(limit_bytes)
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise errors.BodyTooLarge(limit_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """Header names in lower case to values. Raises `InvalidHeader` where one of ours is given twice."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in headers and name in _SINGLE:
            raise errors.InvalidHeader(_SINGLE[name], "given once")
        headers[name] = value
    return headers


_SINGLE = {name.lower().encode(): name for name in ("Content-Type", "X-Request-ID", "X-Routing-Key", "X-Timeout-Ms")}


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False).encode()


async def _send(
    send: Send,
    status: int,
    body: bytes,
    answer_id: str,
    extra: tuple[tuple[bytes, bytes], ...] = (),
    *,
    more_body: bool = False,
) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"x-request-id", answer_id.encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": more_body})


async def _refuse(receive: Receive, send: Send, refusal: errors.Refusal, answer_id: str) -> None:
    body = _json(refusal.body(answer_id))
    extra: list[tuple[bytes, bytes]] = []
    if refusal.retry_after_s is not None:
        extra.append((b"retry-after", str(max(1, round(refusal.retry_after_s))).encode()))
    if isinstance(refusal, errors.MethodNotAllowed):
        extra.append((b"allow", ", ".join(refusal.allow).encode()))
    if not isinstance(refusal, errors.BodyTooLarge):
        await _send(send, refusal.status, body, answer_id, tuple(extra))
        return
    await _send(send, refusal.status, body, answer_id, (*extra, (b"connection", b"close")), more_body=True)
    await _drain(receive)
    await send({"type": "http.response.body", "body": b""})


async def _drain(receive: Receive) -> None:
    left = DRAIN_BYTES
    try:
        async with asyncio.timeout(DRAIN_S):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
