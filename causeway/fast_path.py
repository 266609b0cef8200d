"""Requests to /predict that need not wait for anything but their batch, from their bytes to those of the answer.

The same steps as in `causeway.rest`, without a task: a batch that is done answers its requests itself. A request that
has a fault, or needs more than its batch, is not taken: the long way tells. Where a dear model's queue is too long, it
is refused here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial

from causeway import admission, errors
from causeway.asgi import Answer, RequestHeaders, header_value, server_timing
from causeway.batching import Job, Priority
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
            asked = self._asked(request)
            variant = self._deployment.route(asked.routing_key or request.id, asked.model_version)
            work = None
            full = self._full(request, asked, variant) if variant.batcher.is_computing else None
            if full is None and not variant.keeps_answers:
                work = self._work(request, asked, variant)
        except Exception:  # which the long way meets again, and tells
            return False
        if full is not None:  # told outside of that: what has been answered must not go the long way as well
            request.variant = variant.labels
            self._tell(request, full)
            return True
        if work is None:
            return False
        self.n_inside += 1
        request.variant = variant.labels
        try:
            self._enter(work)
        except Exception as exc:
            self.refuse(work, exc)
        return True

    def answer(self, work: _Work) -> None:
        """Sends what its batch had for it, or a refusal."""
        request, variant, asked = work.request, work.variant, work.asked
        ready = time.perf_counter()
        self._leave(work, ready)
        error, work.error = work.error, None
        if error is not None:  # not raised: it would be a cycle with this frame, and keep the rows
            self.refuse(work, variant.refusal(error, asked.timeout_ms))
            return
        if request.disconnected:
            raise errors.ClientGone()
        if ready > work.deadline:
            raise errors.DeadlineExceeded(asked.timeout_ms)
        X, predictions, arrived, started = work.X, work.predictions, request.arrived, request.started
        self._deployment.offer_shadow(variant, X, predictions)
        body = variant.encode(predictions, request.id, (ready - started) * 1000)
        waited_s = work.let_in - work.decoded + work.queue_s
        phases = (work.decoded - arrived, waited_s, work.compute_s, time.perf_counter() - ready)
        is_pinned = asked.model_version is not None
        request.answer_json(body, server_timing(arrived - started, phases, work.batch_rows, work.released))
        request.answered = (X, predictions, variant.labels, is_pinned, asked.routing_key, phases)
        self._end(work, 200)

    def refuse(self, work: _Work, exc: BaseException) -> None:
        """Sends a refusal."""
        self._leave(work, time.perf_counter())
        answer = self._refused(exc, work.request)
        if not work.request.response_complete:
            work.request.answer(answer)
        self._end(work, answer.status)

    def _asked(self, request: FastRequest) -> RequestHeaders:
        headers = request.headers
        if headers.get(b"content-type") == b"application/json" and UNDERSTOOD.isdisjoint(headers):
            return self._usual
        asked = RequestHeaders.parse(headers, self._settings)
        request.id = header_value(headers, b"x-request-id") or request.id
        return asked

    def _full(self, request: FastRequest, asked: RequestHeaders, variant: Variant) -> errors.Refusal | None:
        """The refusal where the queue alone of a dear model is too long."""
        left_s = request.started + asked.timeout_ms / 1000 - time.perf_counter()
        try:
            admission.admit(variant.batcher, 1, left_s, asked.timeout_ms, asked.priority)
        except errors.Refusal as exc:
            return exc.with_traceback(None)
        return None

    def _tell(self, request: FastRequest, refusal: errors.Refusal) -> None:
        answer = self._refused(refusal, request)
        request.answer(answer)
        self._ended(request, answer.status)
        request.forget()

    def _work(self, request: FastRequest, asked: RequestHeaders, variant: Variant) -> _Work:
        X = variant.version.decode(request.body, self._settings.max_rows)  # `MOST_BYTES` of it are decoded in no time
        return _Work(self, request, asked, variant, X)

    def _enter(self, work: _Work) -> None:
        door = self._doors[work.asked.priority]
        if not work.variant.batcher.runs_on_loop:  # where it computes in a thread, the engine is what they wait for
            self._submit(work)
        elif door.is_open:
            self._submit(work)
            door.enter()
            work.inside = door
        else:
            turn = door.line_up(work.decoded, work.deadline, work.asked.timeout_ms, work.request, work.X.nbytes)
            turn.add_done_callback(partial(self._turn_came, work, door))

    def _turn_came(self, work: _Work, door: Door, turn: Turn) -> None:
        try:
            door.go_in(turn, work.decoded, work.asked.timeout_ms, work.X.nbytes)
            work.inside = door
            work.let_in = time.perf_counter()
            if work.request.disconnected:
                raise errors.ClientGone()
            self._submit(work)
        except Exception as exc:
            self.refuse(work, exc)

    def _submit(self, work: _Work) -> None:
        """Hands it to the batcher. Raises the refusal of a request whose batch would not be done in time."""
        asked, batcher = work.asked, work.variant.batcher
        admission.admit(batcher, work.n_rows, work.deadline - work.let_in, asked.timeout_ms, asked.priority)
        batcher.put(work)
        work.request.drop = work.drop

    def _leave(self, work: _Work, now: float) -> None:
        """Makes room at the door."""
        door, work.inside = work.inside, None
        if door is not None:
            door.leave(now - work.let_in)

    def _end(self, work: _Work, status: int) -> None:
        if not work.is_told:
            work.is_told = True
            self.n_inside -= 1
            self._ended(work.request, status)
            work.request.forget()


class _Work(Job):
    """A request that was taken."""

    __slots__ = ("_path", "asked", "decoded", "inside", "is_told", "let_in", "request", "variant")

    def __init__(self, path: FastPath, request: FastRequest, asked: RequestHeaders, variant: Variant, X: Array) -> None:
        Job.__init__(self, X, request.started + asked.timeout_ms / 1000, asked.priority)
        self._path = path
        self.request = request
        self.asked = asked
        self.variant = variant
        self.decoded = self.let_in = time.perf_counter()
        self.inside: Door | None = None
        """Which it has to leave."""
        self.is_told = False

    def drop(self, reason: Exception) -> None:
        """Ends it early."""
        self.variant.batcher.drop(self, reason)

    def ended(self) -> None:
        """Answers it."""
        try:
            self._path.answer(self)
        except Exception as exc:
            self._path.refuse(self, exc)
