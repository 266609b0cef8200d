"""Requests to /predict that need not wait for anything but their batch, from their bytes to those of the answer.

The same steps as in `causeway.rest`, without a task: a batch that is done answers its requests itself. Nothing is
refused here before the batch: a request that has a fault, or needs more, goes the long way, which tells.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial

from causeway import admission, errors
from causeway.asgi import Answer, RequestHeaders, header_value, server_timing
from causeway.batching import Priority, Scored
from causeway.contract import Array
from causeway.decoding import BodyDecoder
from causeway.deployment import Deployment
from causeway.door import Door, Turn
from causeway.protocol import FastRequest
from causeway.settings import Settings
from causeway.variant import Variant

UNDERSTOOD = frozenset(
    (b"x-timeout-ms", b"x-routing-key", b"x-model-version", b"x-priority", b"x-request-id", b"content-encoding")
)
"""Headers that change how a request is answered."""


class FastPath:
    """Of one worker, on the event loop."""

    def __init__(
        self,
        deployment: Deployment,
        settings: Settings,
        doors: Mapping[Priority, Door],
        *,
        is_open: bool,
        refused: Callable[[BaseException, FastRequest], Answer],
        ended: Callable[[FastRequest, int], None],
    ) -> None:
        self.n_inside = 0
        """Requests that were taken and are not answered."""
        self._deployment = deployment
        self._settings = settings
        self._doors = doors
        self._is_open = is_open
        self._refused = refused
        self._ended = ended
        self._bodies = BodyDecoder()
        self._usual = RequestHeaders.parse({}, settings)

    def take(self, request: FastRequest) -> bool:
        """Begins to answer; False, with nothing done, where the request is to go the long way."""
        if not self._is_open:
            return False
        headers = request.headers
        try:
            if headers.get(b"content-type") == b"application/json" and UNDERSTOOD.isdisjoint(headers):
                asked = self._usual
            else:
                asked = RequestHeaders.parse(headers, self._settings)
                request.id = header_value(headers, b"x-request-id") or request.id
            variant = self._deployment.route(asked.routing_key or request.id, asked.model_version)
            batcher = variant.batcher
            if variant.keeps_answers or not batcher.runs_on_loop or batcher.is_computing:
                return False
            X = self._bodies.at_once((request.body,), variant.version.decode, self._settings.max_rows)
            if X is None:
                return False
            work = _Work(request, asked, variant, self._doors[asked.priority], X)
            if work.door.is_open:
                work.admit()
                work.door.enter()
                self._submit(work)
            else:
                turn = work.door.line_up(work.decoded, work.deadline, asked.timeout_ms, request)
                turn.add_done_callback(partial(self._turn_came, work))
        except errors.Refusal:
            return False
        request.variant = variant.labels
        self.n_inside += 1
        return True

    def _turn_came(self, work: _Work, turn: Turn) -> None:
        try:
            work.door.go_in(turn, work.decoded, work.asked.timeout_ms)
        except (errors.Refusal, errors.ClientGone) as exc:
            self._refuse(work, exc)
            return
        work.let_in = time.perf_counter()
        try:
            if work.request.is_gone():
                raise errors.ClientGone()
            work.admit()
        except (errors.Refusal, errors.ClientGone) as exc:
            work.door.leave(0.0)
            self._refuse(work, exc)
            return
        self._submit(work)

    def _submit(self, work: _Work) -> None:
        request, batcher = work.request, work.variant.batcher
        job = batcher.submit(work.X, work.deadline, work.asked.priority)
        request.drop = partial(batcher.drop, job)
        job.future.add_done_callback(partial(self._scored, work))

    def _scored(self, work: _Work, future: asyncio.Future[Scored]) -> None:
        request, variant, asked = work.request, work.variant, work.asked
        ready = time.perf_counter()
        work.door.leave(ready - work.let_in)
        exc = future.exception()
        if exc is None and request.disconnected:
            exc = errors.ClientGone()
        elif exc is None and ready > work.deadline:
            exc = errors.DeadlineExceeded(asked.timeout_ms)
        if exc is not None:
            self._refuse(work, variant.refusal(exc, asked.timeout_ms))
            return
        scored = future.result()
        shadow = self._deployment.served.shadow
        if shadow is not None and variant.role == "champion":
            shadow.offer(work.X, scored.predictions)
        arrived = request.arrived
        body = variant.encode(scored.predictions, request.id, (ready - request.started) * 1000)
        waited_s = work.let_in - work.decoded + scored.queue_s
        phases = (work.decoded - arrived, waited_s, scored.compute_s, time.perf_counter() - ready)
        is_pinned = asked.model_version is not None
        request.answered = (work.X, scored.predictions, variant.labels, is_pinned, asked.routing_key, *phases)
        request.answer_json(body, server_timing(arrived - request.started, phases, scored)[1])
        self._end(request, 200)

    def _refuse(self, work: _Work, exc: BaseException) -> None:
        answer = self._refused(exc, work.request)
        work.request.answer(answer)
        self._end(work.request, answer.status)

    def _end(self, request: FastRequest, status: int) -> None:
        self.n_inside -= 1
        self._ended(request, status)
        request.forget()


class _Work:
    """A request that was taken."""

    __slots__ = ("X", "asked", "deadline", "decoded", "door", "let_in", "request", "variant")

    def __init__(self, request: FastRequest, asked: RequestHeaders, variant: Variant, door: Door, X: Array) -> None:
        self.request = request
        self.asked = asked
        self.variant = variant
        self.door = door
        self.X = X
        self.deadline = request.started + asked.timeout_ms / 1000
        self.decoded = self.let_in = time.perf_counter()

    def admit(self) -> None:
        """Raises the refusal of a request whose batch would not be done in time."""
        left_s, timeout_ms = self.deadline - self.let_in, self.asked.timeout_ms
        admission.admit(self.variant.batcher, len(self.X), left_s, timeout_ms, self.asked.priority)
