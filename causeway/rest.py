"""The wire contract: POST /predict and GET /health, bytes in and bytes out.

`Rest` is an ASGI application in front of BentoML's. It answers its own paths, hands BentoML's on, and refuses
every other path, so that each refusal is one JSON object in the same form.
"""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Sequence
from typing import Any

import orjson

from causeway import admission, codec, errors, garbage, logs, openapi, tracing
from causeway.admin import Admin
from causeway.asgi import (
    Answer,
    App,
    Endpoint,
    Message,
    Receive,
    Request,
    RequestHeaders,
    Scope,
    Send,
    json_answer,
    length,
    server_timing,
)
from causeway.batching import Priority
from causeway.decoding import BodyDecoder
from causeway.deployment import Deployment, state_path
from causeway.door import Door
from causeway.drifts import Drifts
from causeway.fast_path import FastPath
from causeway.feedback import Feedback
from causeway.monitoring import folder, process
from causeway.monitoring.metrics import FLUSH_S, Metrics
from causeway.monitoring.place import where
from causeway.monitoring.recorder import Recorder
from causeway.protocol import FastRequest
from causeway.settings import Settings
from causeway.shadow import Busyness

BENTOML_PATHS = ("/schema.json", "/livez", "/readyz", "/healthz")
BENTOML_STATIC = "/static_content/"
READ = ("GET", "HEAD")
TOLD = ("/predict", "/feedback", "/drift", "/health", "/")
"""Paths that somebody who asked for another one is told of."""
TRACED = ("/predict", "/feedback")
"""Paths whose requests get a span; probes and scrapes would drown them."""


REFUSED_VALUES = (errors.MissingName, errors.NotANumber, errors.NotFinite, errors.NotAnInteger, errors.OutOfRange)
"""Refusals that name a feature, whose value they refuse."""


class Rest:
    """ASGI application: answers our paths, hands BentoML's on, refuses the rest."""

    def __init__(
        self, app: App, *, deployment: Deployment, settings: Settings, metrics: Metrics, spans: tracing.Spans | None
    ) -> None:
        self._app = app
        self._deployment = deployment
        self._settings = settings
        self._metrics = metrics
        self._spans = spans
        self._in_flight = 0
        metrics.watch(
            in_flight=lambda: self._in_flight + self.fast_path.n_inside, queued_rows=lambda: deployment.waiting_rows
        )
        self._bodies = BodyDecoder()
        self._reading = Deadlines()
        self._doors: dict[Priority, Door] = {"interactive": Door(), "bulk": Door()}
        self._repeats = logs.Repeats()
        self.fast_path = FastPath(
            deployment, settings, self._doors, is_open=spans is None, refused=self._refused, ended=self._ended
        )
        """What the protocol offers its requests to."""
        self._endpoints: dict[str, tuple[Endpoint, tuple[str, ...]]] = {
            "/predict": (self._predict, ("POST",)),
            "/health": (self._health, READ),
            "/": (self._page, READ),
            "/docs.json": (self._docs, READ),
            "/metrics": (self._scrape, READ),
            **dict.fromkeys((*BENTOML_PATHS, BENTOML_STATIC), (self._bentoml, READ)),
            **(Admin(settings, metrics.exposition).endpoints() if settings.admin_token else {}),
        }
        self._recorder: Recorder | None = None
        self._labels: Feedback | None = None
        self._drifts: Drifts | None = None
        if settings.monitoring == "on":
            self._monitor()

    def _monitor(self) -> None:
        """Sets up the prediction log, and what is answered from it."""
        settings, deployment = self._settings, self._deployment
        place = where(settings, state_path(settings).parent)
        self._recorder = Recorder(place.server(), self._metrics)
        self._labels = Feedback(
            place.database_url,
            metrics=self._metrics,
            output=lambda: deployment.champion.version.contract.output,
            max_body_bytes=settings.max_body_bytes,
            max_rows=settings.max_rows,
        )
        self._drifts = Drifts(
            place.database_url,
            settings.drift_rows,
            settings.drift_s,
            lambda: list(deployment.served.by_tag),
            timeout_ms=settings.timeout_ms,
        )
        self._endpoints |= {"/feedback": (self._feedback, ("POST",)), "/drift": (self._drifts.answer, READ)}

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
        spans, span = self._spans if path in TRACED else None, None
        self._in_flight += 1
        try:
            try:
                request.identify()
                if spans is not None:
                    span = spans.begin(scope["method"], path, request.headers, request.id)
                    request.trace = tracing.of(span)
                answer = await self._endpoint(path, scope["method"])(request)
            except Exception as exc:
                answer = self._refused(exc, request)
            await request.answer(answer, send)
        finally:
            self._in_flight -= 1
        self._ended(request, answer.status, path)
        if spans is not None and span is not None:
            spans.end(span, answer.status, request.variant)

    def _ended(self, request: Request | FastRequest, status: int, path: str = "/predict") -> None:
        """Counts a request that was answered, and keeps what it was answered with."""
        seconds = time.perf_counter() - request.started
        if request.answered is None or self._recorder is None:
            self._metrics.answered(path, status, seconds, request.variant)
        else:
            trace_id = None if request.trace is None else request.trace.trace_id
            self._recorder.note(request.id, request.started, seconds, request.answered, trace_id)

    async def _live(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The lifespan of BentoML's application, with ours around it."""
        background: list[asyncio.Task[None]] = []

        async def send_settled(message: Message) -> None:
            if message["type"] == "lifespan.startup.complete":
                background.append(asyncio.create_task(self._count()))
                background.append(asyncio.create_task(process.watch(self._metrics)))
                self._deployment.follow()
                if self._recorder is not None:
                    self._recorder.start()
                garbage.settle()
            elif message["type"].startswith("lifespan.shutdown"):
                await self._end(background)  # before that is sent: the server does not wait for what comes after
            await send(message)

        await self._app(scope, receive, send_settled)

    async def _end(self, background: Sequence[asyncio.Task[None]]) -> None:
        """Lets go of everything, and writes what is still in memory."""
        for task in background:
            task.cancel()
        self._deployment.stop()
        for part in (self._recorder, self._labels, self._drifts, self._spans):
            if part is not None:
                await asyncio.to_thread(part.close)
        self._metrics.flush()

    async def _count(self) -> None:
        busyness = Busyness()
        while True:
            await asyncio.sleep(FLUSH_S)
            self._flush()
            busy = busyness.since_last()
            garbage.tidy(busy)
            if self._deployment.is_ready and self._deployment.served.shadow is not None:
                self._deployment.served.shadow.make_room(busy)

    def _flush(self) -> None:
        """Counts what was answered, and lets it go to the prediction log."""
        if self._recorder is not None:
            self._recorder.flush()
        self._metrics.flush()

    def _endpoint(self, path: str, method: str) -> Endpoint:
        """What answers this path and method. Raises `NotFound` or `MethodNotAllowed`."""
        if path not in self._endpoints:
            there = [each for each in TOLD if each in self._endpoints]
            raise errors.NotFound([f"{self._endpoints[each][1][0]} {each}" for each in there])
        endpoint, methods = self._endpoints[path]
        if method not in methods:
            raise errors.MethodNotAllowed(methods)
        return endpoint

    async def _predict(self, request: Request) -> Answer:
        settings = self._settings
        asked = RequestHeaders.parse(request.headers, settings)
        deadline = request.started + asked.timeout_ms / 1000
        variant = self._deployment.route(asked.routing_key or request.id, asked.model_version)
        request.variant = variant.labels
        if variant.batcher.is_computing:  # the queue alone may be too long: the body need not be read
            admission.admit(variant.batcher, 1, deadline - time.perf_counter(), asked.timeout_ms, asked.priority)
        task = self._reading.begin(deadline)
        try:
            pieces = await request.pieces(settings.max_body_bytes)
            arrived = time.perf_counter()
            version, max_rows = variant.version, settings.max_rows
            X = self._bodies.at_once(pieces, version.decode, max_rows)
            if X is None:
                X = await request.unless_gone(self._bodies.beside(pieces, version.contract, max_rows))
        finally:
            if not self._reading.end(task):
                raise errors.DeadlineExceeded(asked.timeout_ms)
        decoded = time.perf_counter()
        # Where it computes in a thread, the engine is what they wait for.
        door = self._doors[asked.priority] if variant.batcher.runs_on_loop else None
        if door is not None:
            if door.is_open:
                door.enter()
            else:
                await door.wait(deadline, asked.timeout_ms, request, X.nbytes)
        let_in = time.perf_counter()
        try:
            scored = await variant.score(
                X, asked.timeout_ms, deadline=deadline, priority=asked.priority, client=request
            )
            ready = time.perf_counter()
        finally:
            if door is not None:
                door.leave(time.perf_counter() - let_in)
        if ready > deadline:
            raise errors.DeadlineExceeded(asked.timeout_ms)
        self._deployment.offer_shadow(variant, X, scored.predictions)
        latency_ms = (ready - request.started) * 1000
        answer = (scored.predictions, request.id, latency_ms)
        body = variant.encode(*answer) if len(X) <= codec.PIECE_ROWS else await variant.encode.large(*answer)
        phases = (decoded - arrived, let_in - decoded + scored.queue_s, scored.compute_s, time.perf_counter() - ready)
        is_pinned = asked.model_version is not None
        request.answered = (X, scored.predictions, variant.labels, is_pinned, asked.routing_key, phases)
        timing = server_timing(arrived - request.started, phases, scored.batch_rows, scored.released)
        return json_answer(200, body, request.id, (b"server-timing", timing))

    async def _feedback(self, request: Request) -> Answer:
        assert self._labels is not None
        return await self._labels.answer(request, RequestHeaders.parse(request.headers, self._settings).timeout_ms)

    async def _health(self, request: Request) -> Answer:
        deployment = self._deployment
        body = {"status": "healthy", "version": deployment.champion.version.tag, "details": deployment.details()}
        return json_answer(200, json.dumps(body).encode(), request.id)

    async def _docs(self, request: Request) -> Answer:
        version = self._deployment.champion.version if self._deployment.is_ready else None
        document = openapi.document(version, self._settings)
        return json_answer(200, json.dumps(document, allow_nan=False).encode(), request.id)

    async def _page(self, request: Request) -> Answer:
        return Answer(200, openapi.PAGE, ((b"content-type", b"text/html; charset=utf-8"), length(openapi.PAGE)))

    def _refused(self, exc: BaseException, request: Request | FastRequest) -> Answer:
        """The answer for a refusal; a fault of ours is logged, and told as no more than that."""
        if isinstance(exc, errors.ClientGone):
            return json_answer(499, b"", request.id)  # nobody reads it, but metrics count it
        refusal = exc if isinstance(exc, errors.Refusal) else errors.InternalError()
        cause = exc.__cause__ if refusal is exc else exc
        if refusal.status >= 500 and cause is not None:
            untold = self._repeats.untold((refusal.code, type(cause)))
            if untold is not None:
                trace = {} if request.trace is None else {"trace_id": request.trace.trace_id}
                log = logs.get().bind(request_id=request.id, **trace, **refusal.facts, untold_before=untold)
                if isinstance(refusal, errors.ModelFailed):  # engines quote values, and those are features
                    log.error(refusal.code, cause=type(cause).__name__, message=logs.without_numbers(str(cause)))
                else:
                    log.error(refusal.code, exc_info=cause)
        self._metrics.refused(refusal.code)
        if request.variant is not None and isinstance(refusal, REFUSED_VALUES):
            self._refused_value(refusal, request.variant[1])
        waited_ms = (time.perf_counter() - request.started) * 1000
        extra = [(b"server-timing", b"refused;dur=%.3f" % waited_ms)]
        if refusal.retry_after_s is not None:
            extra.append((b"retry-after", b"%d" % math.ceil(refusal.retry_after_s)))
        if isinstance(refusal, errors.Unauthorized):
            extra.append((b"www-authenticate", b"Bearer"))
        if isinstance(refusal, errors.MethodNotAllowed):
            extra.append((b"allow", ", ".join(refusal.allow).encode()))
        return json_answer(refusal.status, orjson.dumps(refusal.body(request.id)), request.id, *extra)

    def _refused_value(self, refusal: errors.BadRequest, tag: str) -> None:
        """Counts the value that was refused, of which drift is told too."""
        reason = "not_a_number"
        if isinstance(refusal, errors.OutOfRange):
            reason = "out_of_range"
        elif isinstance(refusal, errors.MissingName | errors.NotFinite) or refusal.facts.get("got") == "null":
            reason = "missing"
        self._metrics.refused_value(refusal.name, reason)
        if self._recorder is not None:
            self._recorder.refused_value(tag, refusal.name, reason)

    async def _scrape(self, request: Request) -> Answer:
        self._flush()
        folder.forget_the_dead()
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


def _instead_of_websocket(send: Send) -> Send:
    """Answers a WebSocket handshake with a plain HTTP response (the ASGI extension "websocket.http.response")."""

    async def send_response(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return send_response
