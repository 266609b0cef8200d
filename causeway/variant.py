"""A version that answers: the batcher that runs it, the answers that it gave, and the role that it has."""

from __future__ import annotations

import asyncio
import copy
import time
from typing import Protocol, Self

from causeway import admission, batching, errors
from causeway.batching import Batcher, Job, Priority, Scored
from causeway.cache import ResponseCache
from causeway.codec import Encoder
from causeway.contract import Array
from causeway.cost import Cost
from causeway.state import Role
from causeway.version import ModelVersion

CACHED = "cached"
"""Why an answer had no batch."""


class Observer(batching.Observer, Protocol):
    """What is told about batches, scores and the response cache."""

    def scored(self, version: ModelVersion, predictions: Array) -> None:
        """The version gave these predictions (n_rows, output width), NaN among them; in any thread."""

    def looked_up(self, result: str) -> None:
        """The response cache was asked: `hit` or `miss`."""


class Client(Protocol):
    """Who waits for predictions."""

    def is_gone(self) -> bool:
        """Whether it is known to have hung up."""

    async def gone(self) -> Exception:
        """Returns once it has hung up, with what is to be raised."""


class Variant:
    """A version in a role."""

    def __init__(self, role: Role, version: ModelVersion, observer: Observer, cache_bytes: int = 0) -> None:
        self.version = version
        self._take(role)
        self.batcher = Batcher(self._predict, Cost(version.cost.fixed_s, version.cost.per_unit_s), observer)
        self._observer = observer
        self._cache = ResponseCache(cache_bytes) if cache_bytes else None
        self.keeps_answers = bool(cache_bytes)
        """Whether it has a response cache."""

    def in_role(self, role: Role) -> Self:
        """The same version in another role, with the same queue and the same kept answers."""
        if role == self.role:
            return self
        other = copy.copy(self)
        other._take(role)
        return other

    async def score(
        self,
        X: Array,
        timeout_ms: float,
        *,
        deadline: float | None = None,
        priority: Priority = "interactive",
        client: Client | None = None,
    ) -> Scored:
        """Predictions for X (n_rows, n_features) by `deadline` on `time.perf_counter`, or `timeout_ms` from now.

        Raises `Overloaded`, `DeadlineUnreachable`, `DeadlineExceeded`, `ModelFailed`, `DeviceLost`, or `ClientGone`:
        while the rows wait, as soon as the client hangs up, otherwise once they are computed.
        """
        if self._cache is not None:
            key = X.tobytes()
            kept = self._cache.get(key)
            self._observer.looked_up("miss" if kept is None else "hit")
            if kept is not None:
                return Scored(kept, 0.0, 0.0, 0, CACHED)
        now = time.perf_counter()
        deadline = now + timeout_ms / 1000 if deadline is None else deadline
        admission.admit(self.batcher, len(X), deadline - now, timeout_ms, priority)
        job = self.batcher.submit(X, deadline, priority)
        try:
            scored = await (self._watched(job, client) if job.may_wait and client else job)
        except (batching.Expired, batching.Poisoned) as exc:
            raise self.refusal(exc, timeout_ms) from exc.__cause__
        if client and client.is_gone():
            raise errors.ClientGone()
        if self._cache is not None:
            self._cache.put(key, scored.predictions)
        return scored

    def refusal(self, exc: BaseException, timeout_ms: float) -> BaseException:
        """What the end of a job means to the caller; with what made the engine fail as the cause."""
        if isinstance(exc, batching.Expired):
            return errors.DeadlineExceeded(timeout_ms)
        if isinstance(exc, batching.Poisoned):
            refusal = errors.ModelFailed(self.version.tag)
            refusal.__cause__ = exc.__cause__
            return refusal
        return exc

    def _take(self, role: Role) -> None:
        self.role: Role = role
        self.labels = (role, self.version.tag)
        self.encode = Encoder(self.version.tag, role)

    def _predict(self, X: Array) -> Array:
        predictions = self.version.predict(X)
        self._observer.scored(self.version, predictions)
        return predictions

    async def _watched(self, job: Job, client: Client) -> Scored:
        """The result of a job that is dropped when its client hangs up."""
        watcher = asyncio.ensure_future(client.gone())

        def leave(watcher: asyncio.Future[Exception]) -> None:
            if not watcher.cancelled():
                self.batcher.drop(job, watcher.exception() or watcher.result())

        watcher.add_done_callback(leave)
        try:
            return await job
        finally:
            watcher.cancel()
