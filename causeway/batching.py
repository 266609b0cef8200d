"""The adaptive batcher: rows of several requests in one call of the engine, and nobody waits for company.

Work-conserving: an idle engine starts at once with what is there; while it works, requests gather; then it takes what
fits. What fits is a matter of time, not of a number of rows: the cost model (`causeway.cost`) is learnt from every
batch. A cheap model runs on the event loop, a dear one in a thread, by the same model.

Life of a job: `put` -> waiting -> part of one batch or of several -> `ended`. It ends early, without being computed,
when it is dropped: its deadline has passed, or its client has gone.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from causeway import errors
from causeway.contract import Array
from causeway.cost import Cost

LOOP_BUDGET_S = 0.002
"""A batch on the event loop takes no longer than this, and a model of which one row does runs in a thread."""

THREAD_BUDGET_S = 0.050
"""A batch in a thread takes no longer than this where its rows allow: so long does a newcomer wait for its end."""

DEAR_ROWS = 2.0
"""Where one row takes most of that time, a batch takes as long as this many: else a model whose cost hardly grows with
the rows, as on a GPU, would compute them one by one, and never be seen with more."""

PROBE_S = 1.0
"""After so long without a batch nobody is refused for what is predicted: the prediction may be what is wrong."""

BULK_SHARE = 0.1
"""The share of rows that bulk requests get at least while interactive ones would take them all."""

IDLE, DRAINED, FULL, DEADLINE = RELEASED = ("idle", "drained", "full", "deadline")
"""Why a batch was not larger: the engine had nothing to do and took what was there; it came from another batch and
took all that had gathered; more would have exceeded the time of a batch; or the deadline of one in it."""

Priority = Literal["interactive", "bulk"]
"""Who goes first: bulk requests get what interactive ones leave, and `BULK_SHARE` where these leave nothing."""


class Observer(Protocol):
    """What is told about batches."""

    def batch(self, n_rows: int, released: str) -> None:
        """A batch was computed."""

    def poisoned(self) -> None:
        """A request made the engine fail."""


class Scored(NamedTuple):
    """Predictions of one request, and where its time went."""

    predictions: Array
    queue_s: float
    """Until its first row was computed, and between its batches where it was in several."""
    compute_s: float
    """Of the whole batches that its rows were in."""
    batch_rows: int
    """Rows of the last of these batches, its own included."""
    released: str
    """Why that batch was released; one of `RELEASED`."""


class Expired(Exception):
    """The deadline of a job passed before it was done."""


class Poisoned(Exception):
    """The engine fails on the rows of this job, alone as in company; the cause says how."""


class Job:
    """The rows of one request on their way: await it, once, for `Scored`, or override `ended`.

    Awaiting it raises `Expired`, `Poisoned`, `DeviceLost`, or what it was dropped for.
    """

    __slots__ = (
        "X",
        "_awaited",
        "batch_rows",
        "compute_s",
        "deadline",
        "error",
        "is_bulk",
        "is_guilty",
        "is_over",
        "may_wait",
        "n_rows",
        "predictions",
        "queue_s",
        "released",
        "submitted",
        "taken",
        "timer",
    )
    predictions: Array
    """(n_rows, output width), once it is over without an error; until then of those batches that are computed."""
    queue_s: float
    batch_rows: int
    released: str
    submitted: float

    def __init__(self, X: Array, deadline: float, priority: Priority = "interactive") -> None:
        """For X (n_rows, n_features), to be done by `deadline` on the batcher's clock."""
        self.X = X
        self.n_rows = len(X)
        self.deadline = deadline
        self.is_bulk = priority == "bulk"
        self.is_over = False
        """Whether it has its predictions, or an error, or nobody waits for it any more."""
        self.may_wait = False
        """Whether it waits long enough for its deadline to pass, or its client to leave, meanwhile."""
        self.is_guilty = False
        self.taken = 0
        """Rows that are computed or being computed."""
        self.compute_s = 0.0
        self.error: BaseException | None = None
        """Why there are no predictions."""
        self.timer: asyncio.TimerHandle | None = None
        self._awaited: asyncio.Future[None] | None = None

    @property
    def n_left(self) -> int:
        """Rows that are not computed yet, nor being computed."""
        return self.n_rows - self.taken

    def close(self) -> None:
        """It is over."""
        self.is_over = True
        if self.timer is not None:
            self.timer.cancel()

    def ended(self) -> None:
        """Called once it is over, by the batcher, and soon done: other jobs wait."""
        if self._awaited is not None and not self._awaited.done():
            self._awaited.set_result(None)

    def __await__(self) -> Generator[Any, None, Scored]:
        if not self.is_over:
            self._awaited = asyncio.get_running_loop().create_future()
            try:
                yield from self._awaited
            except asyncio.CancelledError:
                self.close()
                raise
        error, self.error = self.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it would be a cycle with this frame
        return Scored(self.predictions, self.queue_s, self.compute_s, self.batch_rows, self.released)


Part = tuple[Job, int, int]
"""Some rows of a job, in a batch: which, from the first to before the last."""


def _rows(part: Part) -> Array:
    """(stop - start, n_features)."""
    job, start, stop = part
    return job.X if stop - start == job.n_rows else job.X[start:stop]


@dataclass(slots=True)
class Batch:
    """What goes into the engine at once."""

    parts: list[Part]
    n_rows: int
    released: str
    started: float


Outcome = Array | Exception
"""Of a part: its predictions, or what the engine raised about it alone."""


class Batcher:
    """Runs the jobs of one model version through `predict`: (n_rows, output width) for (n_rows, n_features).

    `predict` is called by one thread at a time. All other methods belong to the event loop.
    """

    def __init__(
        self,
        predict: Callable[[Array], Array],
        cost: Cost,
        observer: Observer,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.cost = cost
        """Of a batch, by rows; learnt from every batch."""
        self._predict = predict
        self._observer = observer
        self._clock = clock
        self._interactive: deque[Job] = deque()
        self._bulk: deque[Job] = deque()
        self._bulk_credit = 0.0
        self._waiting_rows = 0
        self._waiting_bulk_rows = 0
        self._is_scheduled = False
        self._in_thread: Batch | None = None
        self._last_ended = clock()
        self._thread: ThreadPoolExecutor | None = None
        self._is_closed = False

    def submit(self, X: Array, deadline: float, priority: Priority = "interactive") -> Job:
        """A job that was put, for X (n_rows, n_features), to be done by `deadline` on the batcher's clock."""
        job = Job(X, deadline, priority)
        self.put(job)
        return job

    def put(self, job: Job) -> None:
        """Takes a job, which ends later."""
        job.submitted = now = self._clock()
        (self._bulk if job.is_bulk else self._interactive).append(job)
        self._waiting_rows += job.n_rows
        if job.is_bulk:
            self._waiting_bulk_rows += job.n_rows
        if self._in_thread is not None or self.cost.seconds(self._waiting_rows) > LOOP_BUDGET_S:
            job.may_wait = True
            job.timer = asyncio.get_running_loop().call_later(job.deadline - now, self.drop, job, Expired())
        if not self._is_scheduled and self._in_thread is None:
            # Not at once: first all requests that have arrived by now.
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._next, IDLE)

    def drop(self, job: Job, reason: BaseException) -> None:
        """Ends a job early; its rows that are not being computed will not be."""
        if not job.is_over:
            self._forget_rows(job)
            job.error = reason
            self._end(job)

    def wait_s(self, n_rows: int, priority: Priority = "interactive") -> float:
        """Predicted seconds until `n_rows` more would be done, after what is being computed and what goes before."""
        rows = float(self._waiting_rows + n_rows)
        if priority == "interactive":
            interactive = rows - self._waiting_bulk_rows
            rows = min(rows, interactive / (1 - BULK_SHARE))
        at_once_s = self.cost.seconds(rows)
        if at_once_s < LOOP_BUDGET_S and self._in_thread is None:
            return at_once_s
        at_once = max(1.0, self.cost.size_within(self._budget_s))
        n_full = rows // at_once
        wait_s = self.cost.fixed_s * n_full + at_once_s
        if n_full and not self.is_idle:
            # An answer comes when its whole batch is done; behind a full batch, others will have filled that one too.
            wait_s = self.cost.seconds(at_once) * (n_full + 1)
        if self._in_thread is not None:
            elapsed_s = self._clock() - self._in_thread.started
            # A batch that is overdue is expected to take as long again as it is overdue.
            wait_s += abs(self.cost.seconds(self._in_thread.n_rows) - elapsed_s)
        return wait_s

    @property
    def waiting_rows(self) -> int:
        """Rows that were submitted and are not being computed yet."""
        return self._waiting_rows

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits or is being computed."""
        return not self._waiting_rows and self._in_thread is None

    @property
    def is_computing(self) -> bool:
        """Whether a batch is being computed in the thread; those on the event loop are never seen while they are."""
        return self._in_thread is not None

    @property
    def idle_s(self) -> float:
        """Seconds since the last batch; 0 while there is work."""
        return self._clock() - self._last_ended if self.is_idle else 0.0

    def close(self) -> None:
        """Lets go of the thread, once all that was submitted is done."""
        self._is_closed = True
        if self._thread is not None and self._in_thread is None:
            self._thread.shutdown(wait=False)
            self._thread = None

    @property
    def runs_on_loop(self) -> bool:
        """Whether the model is so cheap that batches are computed on the event loop."""
        # With as much time left for rows as a call costs beside them: else batches would be small for no reason.
        return 2 * self.cost.fixed_s + self.cost.per_unit_s < LOOP_BUDGET_S

    @property
    def _budget_s(self) -> float:
        return LOOP_BUDGET_S if self.runs_on_loop else max(THREAD_BUDGET_S, DEAR_ROWS * self.cost.seconds(1))

    def _next(self, reason: str) -> None:
        """Takes a batch and computes it here, or begins to in the thread."""
        self._is_scheduled = False
        batch = self._take(reason)
        if batch is None:
            return
        loop = asyncio.get_running_loop()
        compute = self._outcomes
        if self.runs_on_loop:
            outcomes = self._at_once(batch.parts)
            if outcomes is not None:
                self._done(batch, outcomes, self._clock())
                if self._waiting_rows:
                    self._is_scheduled = True
                    loop.call_soon(self._next, DRAINED)
                return
            compute = self._apart  # many calls for what was to be one: not on the loop
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="batcher")
        self._in_thread = batch
        loop.run_in_executor(self._thread, compute, batch.parts).add_done_callback(self._computed)

    def _computed(self, computing: asyncio.Future[list[Outcome]]) -> None:
        batch, self._in_thread = self._in_thread, None
        assert batch is not None
        ended = self._clock()
        stays_in_thread = not self.runs_on_loop
        if stays_in_thread:
            self._next(DRAINED)  # the engine goes on while answers are written
        self._done(batch, computing.result(), ended)
        if not stays_in_thread:  # batches are done in their order: a split job is whole when its last rows are
            self._next(DRAINED)
        if self._is_closed:
            self.close()

    def _take(self, reason: str) -> Batch | None:
        """The next batch, None where nothing waits: jobs in their order, without what cannot be done in time."""
        now = self._clock()
        fixed_s, per_row_s = self.cost.fixed_s, self.cost.per_unit_s
        room = max(1, int(min(self.cost.size_within(self._budget_s), self._waiting_rows)))
        parts: list[Part] = []
        n_rows = 0
        tightest = math.inf
        # A prediction that is too old ends no job.
        least_s = fixed_s if now - self._last_ended < PROBE_S else -math.inf
        interactive, bulk = self._interactive, self._bulk
        while interactive or bulk:
            queue = bulk if bulk and (not interactive or self._bulk_credit >= 1) else interactive
            job = queue[0]
            left = job.n_rows - job.taken
            if now >= job.deadline or now + least_s + per_row_s * left >= job.deadline:
                self.drop(job, Expired())
            if job.is_over:
                queue.popleft()
                self._forget_rows(job)  # none, unless who awaited it was cancelled
                continue
            taken = left if left <= room - n_rows else room - n_rows
            if not taken:
                reason = FULL
                break
            if job.deadline < tightest:
                tightest = job.deadline
            if parts and now + fixed_s + per_row_s * (n_rows + taken) > tightest:
                reason = DEADLINE
                break
            parts.append((job, job.taken, job.taken + taken))
            n_rows += taken
            self._move(queue, taken)
        return Batch(parts, n_rows, reason, now) if parts else None

    def _move(self, queue: deque[Job], n_rows: int) -> None:
        """Counts rows of the first job as taken.

        With rows left it goes behind those that have fewer, so that it does not hold them up, but not to the end: where
        large ones took turns, all of them would be done late, and with deadlines none.
        """
        job = queue.popleft()
        job.taken += n_rows
        self._waiting_rows -= n_rows
        if job.taken < job.n_rows:
            queue.insert(next((i for i, other in enumerate(queue) if other.n_left >= job.n_left), len(queue)), job)
        if job.is_bulk:
            self._waiting_bulk_rows -= n_rows
            # A debt where the part was larger than the credit; none where nobody else asked.
            self._bulk_credit = self._bulk_credit - n_rows if self._interactive else 0.0
        elif self._bulk:
            self._bulk_credit += n_rows * BULK_SHARE / (1 - BULK_SHARE)

    def _outcomes(self, parts: Sequence[Part]) -> list[Outcome]:
        """Of each part. Where the engine fails, it is asked again with halves, until only the guilty fail."""
        outcomes = self._at_once(parts)
        return self._apart(parts) if outcomes is None else outcomes

    def _at_once(self, parts: Sequence[Part]) -> list[Outcome] | None:
        """Of each part, by one call; None where that failed and more would tell whose fault it is."""
        try:
            return self._together(parts)
        except errors.DeviceLost as exc:
            return [exc] * len(parts)
        except Exception as exc:
            return [exc] if len(parts) == 1 else None

    def _apart(self, parts: Sequence[Part]) -> list[Outcome]:
        """Of each part, computed in two halves."""
        half = len(parts) // 2
        return self._outcomes(parts[:half]) + self._outcomes(parts[half:])

    def _together(self, parts: Sequence[Part]) -> list[Outcome]:
        """Of each part, computed at once. Raises what the engine does."""
        predictions = self._predict(
            _rows(parts[0]) if len(parts) == 1 else np.concatenate([_rows(part) for part in parts])
        )
        is_finite = _is_finite(predictions)
        outcomes: list[Outcome] = []
        first = 0
        for _, start, stop in parts:
            outcomes.append(predictions[first : first + stop - start])
            first += stop - start
        return outcomes if is_finite else [_finite(outcome) for outcome in outcomes]

    def _done(self, batch: Batch, outcomes: Sequence[Outcome], ended: float) -> None:
        """Tells the jobs, and learns what the batch cost."""
        seconds = ended - batch.started
        self._last_ended = ended
        is_whole = True
        for (job, start, stop), outcome in zip(batch.parts, outcomes, strict=True):
            job.compute_s += seconds
            if isinstance(outcome, Exception):
                is_whole = False
                if isinstance(outcome, errors.DeviceLost):  # whatever was asked of it
                    self.drop(job, outcome)
                else:
                    self._blame(job, outcome)
            elif not job.is_over and self._has_all(job, start, stop, outcome):
                job.queue_s = ended - job.submitted - job.compute_s
                job.batch_rows, job.released = batch.n_rows, batch.released
                self._end(job)
        self._observer.batch(batch.n_rows, batch.released)
        if is_whole:
            self.cost.learn(batch.n_rows, seconds)

    def _has_all(self, job: Job, start: int, stop: int, outcome: Array) -> bool:
        """Whether the job has all its predictions with these."""
        if stop - start == job.n_rows:
            job.predictions = outcome
            return True
        if start == 0:
            job.predictions = np.empty((job.n_rows, outcome.shape[1]), dtype=outcome.dtype)
        job.predictions[start:stop] = outcome
        return stop == job.n_rows

    def _end(self, job: Job) -> None:
        """Tells a job that it is over; where it fails at that, the others do not."""
        job.close()
        try:
            job.ended()
        except Exception as exc:
            told = {"message": "the end of a job failed", "exception": exc}
            asyncio.get_running_loop().call_exception_handler(told)

    def _forget_rows(self, job: Job) -> None:
        """Those of a job that wait do not any more."""
        self._waiting_rows -= job.n_left
        if job.is_bulk:
            self._waiting_bulk_rows -= job.n_left
        job.taken = job.n_rows

    def _blame(self, job: Job, exc: Exception) -> None:
        if job.is_guilty:  # of another part already, while this one was in the thread
            return
        job.is_guilty = True
        self._observer.poisoned()
        reason = Poisoned()
        reason.__cause__ = exc
        self.drop(job, reason)


FEW = 16
"""So many numbers are looked at one by one sooner than NumPy has begun with them."""


def _is_finite(predictions: Array) -> bool:
    """Whether all are finite numbers. Raises `TypeError` where they are no numbers at all."""
    if predictions.size <= FEW:
        return all(map(math.isfinite, predictions.ravel().tolist()))
    return bool(np.isfinite(predictions).all())


def _finite(outcome: Outcome) -> Outcome:
    """The predictions, or an error where one of them is not a number."""
    if isinstance(outcome, Exception) or _is_finite(outcome):
        return outcome
    return ValueError("a prediction that is not a finite number")
