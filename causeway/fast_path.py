"""Requests to /predict that need not wait for anything but their batch, from their bytes to those of the answer.

The same steps as in `causeway.rest`, without a task: a batch that is done answers its requests itself. A request that
has a fault, or needs more than its batch, is not taken: the long way tells.
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
        self._usual = RequestHeaders.parse({}, settings)

    def take(self, request: FastRequest) -> bool:
        """Begins to answer; False, with nothing done, where the request is to go the long way."""
        if not self._is_open:
            return False
        try:
            work = self._work(request)
        except Exception:  # which the long way meets again, and tells
            return False
        if work is None:
            return False
        self.n_inside += 1
        request.variant = work.variant.labels
        self._do(work, self._enter)
        return True

    def _work(self, request: FastRequest) -> _Work | None:
        """What there is to do; None where that is more than to wait for a batch on the event loop."""
        headers = request.headers
        if headers.get(b"content-type") == b"application/json" and UNDERSTOOD.isdisjoint(headers):
            asked = self._usual
        else:
            asked = RequestHeaders.parse(headers, self._settings)
            request.id = header_value(headers, b"x-request-id") or request.id
        variant = self._deployment.route(asked.routing_key or request.id, asked.model_version)
        batcher = variant.batcher
        if variant.keeps_answers or not batcher.runs_on_loop or batcher.is_computing:
            return None
        X = variant.version.decode(request.body, self._settings.max_rows)  # `MOST_BYTES` of it are decoded in no time
        return _Work(request, asked, variant, self._doors[asked.priority], X)

    def _do(self, work: _Work, step: Callable[[_Work], None]) -> None:
        """Does a step of it, and refuses the request where that fails."""
        try:
            step(work)
        except Exception as exc:
            self._refuse(work, exc)

    def _enter(self, work: _Work) -> None:
        if work.door.is_open:
            work.admit()
            work.door.enter()
            work.is_inside = True
            self._submit(work)
        else:
            turn = work.door.line_up(work.decoded, work.deadline, work.asked.timeout_ms, work.request, work.X.nbytes)
            turn.add_done_callback(lambda turn: self._do(work, partial(self._go_in, turn)))

    def _go_in(self, turn: Turn, work: _Work) -> None:
        work.door.go_in(turn, work.decoded, work.asked.timeout_ms, work.X.nbytes)
        work.is_inside = True
        work.let_in = time.perf_counter()
        if work.request.is_gone():
            raise errors.ClientGone()
        work.admit()
        self._submit(work)

    def _submit(self, work: _Work) -> None:
        batcher = work.variant.batcher
        job = batcher.submit(work.X, work.deadline, work.asked.priority)
        work.request.drop = partial(batcher.drop, job)
        job.future.add_done_callback(lambda future: self._do(work, partial(self._answer, future)))

    def _answer(self, future: asyncio.Future[Scored], work: _Work) -> None:
        request, variant, asked = work.request, work.variant, work.asked
        ready = time.perf_counter()
        work.leave(ready)
        exc = future.exception()
        if exc is not None:  # not raised: it would be a cycle with this frame, and keep the rows
            self._refuse(work, variant.refusal(exc, asked.timeout_ms))
            return
        if request.is_gone():
            raise errors.ClientGone()
        if ready > work.deadline:
            raise errors.DeadlineExceeded(asked.timeout_ms)
        scored = future.result()
        self._deployment.offer_shadow(variant, work.X, scored.predictions)
        arrived = request.arrived
        body = variant.encode(scored.predictions, request.id, (ready - request.started) * 1000)
        waited_s = work.let_in - work.decoded + scored.queue_s
        phases = (work.decoded - arrived, waited_s, scored.compute_s, time.perf_counter() - ready)
        is_pinned = asked.model_version is not None
        request.answer_json(body, server_timing(arrived - request.started, phases, scored)[1])
        request.answered = (work.X, scored.predictions, variant.labels, is_pinned, asked.routing_key, *phases)
        self._end(work, 200)

    def _refuse(self, work: _Work, exc: BaseException) -> None:
        work.leave(time.perf_counter())
        answer = self._refused(exc, work.request)
        if not work.request.response_complete:
            work.request.answer(answer)
        self._end(work, answer.status)

    def _end(self, work: _Work, status: int) -> None:
        if not work.is_over:
            work.is_over = True
            self.n_inside -= 1
            self._ended(work.request, status)
            work.request.forget()


class _Work:
    """A request that was taken."""

    __slots__ = (
        "X",
        "asked",
        "deadline",
        "decoded",
        "door",
        "is_inside",
        "is_over",
        "let_in",
        "request",
        "variant",
    )

    def __init__(self, request: FastRequest, asked: RequestHeaders, variant: Variant, door: Door, X: Array) -> None:
        self.request = request
        self.asked = asked
        self.variant = variant
        self.door = door
        self.X = X
        self.deadline = request.started + asked.timeout_ms / 1000
        self.decoded = self.let_in = time.perf_counter()
        self.is_inside = False
        """Whether it has to leave the door."""
        self.is_over = False

    def admit(self) -> None:
        """Raises the refusal of a request whose batch would not be done in time."""
        left_s, timeout_ms = self.deadline - self.let_in, self.asked.timeout_ms
        admission.admit(self.variant.batcher, len(self.X), left_s, timeout_ms, self.asked.priority)

    def leave(self, now: float) -> None:
        """Makes room at the door."""
        if self.is_inside:
            self.is_inside = False
            self.door.leave(now - self.let_in)
