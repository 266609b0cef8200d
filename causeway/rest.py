"""The wire contract: POST /predict and GET /health, bytes in and bytes out.

`Rest` is an ASGI application in front of BentoML's. It answers its own paths, hands BentoML's on, and refuses
every other path, so that each refusal is one JSON object in the same form.
"""

from __future__ import annotations

import asyncio
import gc
import json
import math
import random
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, MutableMapping
from contextlib import suppress
from typing import Any, NamedTuple

import orjson

from causeway import admission, codec, errors, logs, openapi
from causeway.batching import Priority, Scored
from causeway.contract import Array
from causeway.decoding import BodyDecoder
from causeway.deployment import Deployment
from causeway.monitoring.metrics import FLUSH_S, Metrics
from causeway.settings import Settings

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = Mapping[bytes, bytes]

BENTOML_PATHS = ("/schema.json", "/livez", "/readyz", "/healthz")
BENTOML_STATIC = "/static_content/"
READ = ("GET", "HEAD")

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
        self._bodies = BodyDecoder()
        self._reading = Deadlines()
        self._repeats = logs.Repeats()
        self._endpoints: Mapping[str, tuple[Endpoint, tuple[str, ...]]] = {
            "/predict": (self._predict, ("POST",)),
            "/health": (self._health, READ),
            "/": (self._page, READ),
            "/docs.json": (self._docs, READ),
            "/metrics": (self._scrape, READ),
            **dict.fromkeys((*BENTOML_PATHS, BENTOML_STATIC), (self._bentoml, READ)),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._live(scope, receive, send)
                return
            scope, send = {**scope, "method": "WEBSOCKET"}, _instead_of_websocket(send)
        request = Request(scope, receive)
        path = scope["path"]
        if path not in self._endpoints:
            path = BENTOML_STATIC if path.startswith(BENTOML_STATIC) else "other"
        try:
            request.identify()
            answer = await self._endpoint(path, scope["method"])(request)
        except Exception as exc:
            answer = self._refused(exc, request)
        await request.answer(answer, send)
        self._metrics.answered(path, answer.status, time.perf_counter() - request.started)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The lifespan of BentoML's application, with ours around it."""
        counting: asyncio.Task[None] | None = None

        async def send_settled(message: Message) -> None:
            nonlocal counting
            if message["type"] == "lifespan.startup.complete":
                counting = asyncio.create_task(self._count())
                # What lives as long as the process is not looked at again: full collections took 100 ms and more.
                gc.collect()
                gc.freeze()
            await send(message)

        try:
            await self._app(scope, receive, send_settled)
        finally:
            if counting is not None:
                counting.cancel()
            self._metrics.flush()

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_S)
            self._metrics.flush()

    def _endpoint(self, path: str, method: str) -> Endpoint:
        """What answers this path and method. Raises `NotFound` or `MethodNotAllowed`."""
        if path not in self._endpoints:
            raise errors.NotFound(("POST /predict", "GET /health", "GET /"))
        endpoint, methods = self._endpoints[path]
        if method not in methods:
            raise errors.MethodNotAllowed(methods)
        return endpoint

    async def _predict(self, request: Request) -> Answer:
        settings = self._settings
        asked = RequestHeaders.parse(request.headers, settings)
        deadline = request.started + asked.timeout_ms / 1000
        variant = self._deployment.champion
        if variant.batcher.is_computing:  # the queue alone may be too long: the body need not be read
            admission.admit(variant.batcher, 1, deadline - time.perf_counter(), asked.timeout_ms, asked.priority)
        task = self._reading.begin(deadline)
        try:
            pieces = await request.pieces(settings.max_body_bytes)
            arrived = time.perf_counter()
            version, max_rows = variant.version, settings.max_rows
            X = self._bodies.at_once(pieces, version.decode, max_rows)
            if X is None:
                X = await _unless_gone(request, self._bodies.beside(pieces, version.contract, max_rows))
        finally:
            if not self._reading.end(task):
                raise errors.DeadlineExceeded(asked.timeout_ms)
        decoded = time.perf_counter()
        scored = await variant.score(X, asked.timeout_ms, deadline=deadline, priority=asked.priority, client=request)
        ready = time.perf_counter()
        if ready > deadline:
            raise errors.DeadlineExceeded(asked.timeout_ms)
        latency_ms = (ready - request.started) * 1000
        answer = (scored.predictions, request.id, latency_ms)
        body = variant.encode(*answer) if len(X) <= codec.PIECE_ROWS else await variant.encode.large(*answer)
        timing = _server_timing(arrived - request.started, decoded - arrived, scored, time.perf_counter() - ready)
        return _json(200, body, request.id, timing)

    async def _health(self, request: Request) -> Answer:
        body = {"status": "healthy", "version": self._deployment.champion.version.tag}
        return _json(200, json.dumps(body).encode(), request.id)

    async def _docs(self, request: Request) -> Answer:
        version = self._deployment.champion.version if self._deployment.is_ready else None
        document = openapi.document(version, self._settings)
        return _json(200, json.dumps(document, allow_nan=False).encode(), request.id)

    async def _page(self, request: Request) -> Answer:
        return Answer(200, openapi.PAGE, ((b"content-type", b"text/html; charset=utf-8"), _length(openapi.PAGE)))

    def _refused(self, exc: Exception, request: Request) -> Answer:
        """The answer for a refusal; a fault of ours is logged, and told as no more than that."""
        if isinstance(exc, errors.ClientGone):
            return _json(499, b"", request.id)  # nobody reads it, but metrics count it
        refusal = exc if isinstance(exc, errors.Refusal) else errors.InternalError()
        cause = exc.__cause__ if refusal is exc else exc
        if refusal.status >= 500 and cause is not None:
            untold = self._repeats.untold((refusal.code, type(cause)))
            if untold is not None:
                log = logs.get().bind(request_id=request.id, **refusal.facts, untold_before=untold)
                if isinstance(refusal, errors.ModelFailed):  # engines quote values, and those are features
                    log.error(refusal.code, cause=type(cause).__name__, message=logs.without_numbers(str(cause)))
                else:
                    log.error(refusal.code, exc_info=cause)
        self._metrics.refused(refusal.code)
        waited_ms = (time.perf_counter() - request.started) * 1000
        extra = [(b"server-timing", b"refused;dur=%.3f" % waited_ms)]
        if refusal.retry_after_s is not None:
            extra.append((b"retry-after", b"%d" % math.ceil(refusal.retry_after_s)))
        if isinstance(refusal, errors.MethodNotAllowed):
            extra.append((b"allow", ", ".join(refusal.allow).encode()))
        return _json(refusal.status, orjson.dumps(refusal.body(request.id)), request.id, *extra)

    async def _scrape(self, request: Request) -> Answer:
        self._metrics.flush()
        return await self._bentoml(request)

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


class Answer(NamedTuple):
    """What goes back."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...]


class Request:
    """What came in: headers at once, the body when it is asked for."""

    __slots__ = ("_is_withheld", "_unread_bytes", "headers", "id", "receive", "scope", "started")

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self.started = time.perf_counter()
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

    async def answer(self, answer: Answer, send: Send) -> None:
        """Sends it, and closes the connection where too much of the body is left, or it is unclear what comes next."""
        closes = self._unread_bytes > (0 if self._is_withheld else SKIPPED_BYTES)
        headers = [*answer.headers, (b"connection", b"close")] if closes else answer.headers
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


class Deadlines:
    """Ends tasks at their deadlines, by one timer for all of them: a timer each costs as much as reading a request."""

    SWEEP_S = 0.01
    """How much later than its deadline a task may be ended."""

    def __init__(self) -> None:
        self._deadlines: dict[asyncio.Task[Any], float] = {}
        self._is_sweeping = False

    def begin(self, deadline: float) -> asyncio.Task[Any]:
        """From now on the current task is cancelled at `deadline` (`time.perf_counter`), unless it ends before."""
        task = asyncio.current_task()
        assert task is not None
        self._deadlines[task] = deadline
        if not self._is_sweeping:
            self._is_sweeping = True
            asyncio.get_running_loop().call_later(self.SWEEP_S, self._sweep)
        return task

    def end(self, task: asyncio.Task[Any]) -> bool:
        """Whether it was in time; otherwise it was cancelled, and is no more."""
        if self._deadlines.pop(task, None) is not None:
            return True
        task.uncancel()
        return False

    def _sweep(self) -> None:
        now = time.perf_counter()
        for task in [task for task, deadline in self._deadlines.items() if deadline <= now]:
            del self._deadlines[task]
            task.cancel()
        self._is_sweeping = bool(self._deadlines)
        if self._is_sweeping:
            asyncio.get_running_loop().call_later(self.SWEEP_S, self._sweep)


class RequestHeaders(NamedTuple):
    """The headers that POST /predict understands."""

    timeout_ms: float
    routing_key: str | None
    priority: Priority

    @classmethod
    def parse(cls, headers: Headers, settings: Settings) -> RequestHeaders:
        """Reads and checks them. Raises `InvalidHeader` or `UnsupportedMediaType`."""
        content_type = headers.get(b"content-type", b"application/json")
        if (
            content_type != b"application/json" and not _JSON.fullmatch(content_type)
        ) or b"content-encoding" in headers:
            raise errors.UnsupportedMediaType()
        timeout_ms = _value(headers, b"x-timeout-ms")
        return cls(
            settings.timeout_ms if timeout_ms is None else min(float(timeout_ms), settings.max_timeout_ms),
            _value(headers, b"x-routing-key"),
            "bulk" if _value(headers, b"x-priority") == "bulk" else "interactive",
        )


_JSON = re.compile(rb'application/json[ \t]*(;[ \t]*(charset=("?)utf-8\3)?[ \t]*)?', re.IGNORECASE)
_FORMS = {
    b"x-request-id": ("X-Request-ID", re.compile(rb"[!-~]{1,128}"), "1 to 128 printable ASCII characters, no spaces"),
    b"x-routing-key": ("X-Routing-Key", re.compile(rb"[ -~]{1,256}"), "1 to 256 printable ASCII characters"),
    b"x-timeout-ms": (
        "X-Timeout-Ms",
        re.compile(rb"(?=.*[1-9])[0-9]{1,9}(\.[0-9]{1,6})?"),
        "a positive number of milliseconds in plain decimals, such as 250 or 0.5",
    ),
    b"x-priority": ("X-Priority", re.compile(rb"interactive|bulk"), "interactive or bulk"),
}
_SINGLE = {b"content-type": "Content-Type"} | {name: form[0] for name, form in _FORMS.items()}


def new_request_id() -> str:
    """32 random hexadecimal digits."""
    return f"{_random.getrandbits(128):032x}"


_random = random.Random()  # noqa: S311 - unique, not secret; seeded by the operating system in each process


def _value(headers: Headers, name: bytes) -> str | None:
    """The value of one of our headers, None where it is not given. Raises `InvalidHeader`."""
    value = headers.get(name)
    if value is None:
        return None
    title, form, expected = _FORMS[name]
    if not form.fullmatch(value.strip()):
        raise errors.InvalidHeader(title, expected)
    return value.strip().decode("ascii")


_CONTENT_JSON = (b"content-type", b"application/json")


def _json(status: int, body: bytes, request_id: str, *extra: tuple[bytes, bytes]) -> Answer:
    return Answer(status, body, (_CONTENT_JSON, _length(body), (b"x-request-id", request_id.encode()), *extra))


def _length(body: bytes) -> tuple[bytes, bytes]:
    return b"content-length", b"%d" % len(body)


async def _unless_gone(request: Request, work: Coroutine[Any, Any, Array]) -> Array:
    """The result of long work. Ends it and raises `ClientGone` where the client hangs up before."""
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(request.gone())
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise leaving.result()
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


def _server_timing(receive_s: float, decode_s: float, scored: Scored, encode_s: float) -> tuple[bytes, bytes]:
    """Where the time went, as browsers show it (W3C Server Timing); durations in milliseconds."""
    return b"server-timing", (
        b'receive;dur=%.3f, decode;dur=%.3f, queue;dur=%.3f, compute;dur=%.3f;desc="%d rows, %b", encode;dur=%.3f'
        % (
            receive_s * 1000,
            decode_s * 1000,
            scored.queue_s * 1000,
            scored.compute_s * 1000,
            scored.batch_rows,
            scored.released.encode(),
            encode_s * 1000,
        )
    )


def _instead_of_websocket(send: Send) -> Send:
    """Answers a WebSocket handshake with a plain HTTP response (the ASGI extension "websocket.http.response")."""

    async def send_response(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return send_response
