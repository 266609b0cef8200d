"""Which model version answers, and why none does when none does."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

from causeway import admission, batching, errors, logs, store
from causeway.batching import Batcher, Job, Priority, Scored
from causeway.cache import ResponseCache
from causeway.codec import Encoder
from causeway.contract import Array
from causeway.cost import Cost
from causeway.settings import Settings
from causeway.version import ModelVersion

CACHED = "cached"
"""Why an answer had no batch."""


class Observer(batching.Observer, Protocol):
    """What is told about batches and the response cache."""

    def looked_up(self, result: str) -> None:
        """The response cache was asked: `hit` or `miss`."""


class Client(Protocol):
    """Who waits for predictions."""

    def is_gone(self) -> bool:
        """Whether it is known to have hung up."""

    async def gone(self) -> Exception:
        """Returns once it has hung up, with what is to be raised."""


class Variant:
    """A version in a role, with the batcher that runs it and the answers that it gave; the champion answers."""

    def __init__(self, role: str, version: ModelVersion, observer: Observer, cache_bytes: int = 0) -> None:
        self.role = role
        self.version = version
        self.batcher = Batcher(version.predict, Cost(version.cost.fixed_s, version.cost.per_unit_s), observer)
        self.encode = Encoder(version.tag, role)
        self._observer = observer
        self._cache = ResponseCache(cache_bytes) if cache_bytes else None

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

        Raises `Overloaded`, `DeadlineUnreachable`, `DeadlineExceeded`, `ModelFailed`, or `ClientGone`: while the rows
        wait, as soon as the client hangs up, otherwise once they are computed.
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
            scored = await (self._watched(job, client) if job.may_wait and client else job.future)
        except batching.Expired:
            raise errors.DeadlineExceeded(timeout_ms) from None
        except batching.Poisoned as exc:
            raise errors.ModelFailed(self.version.tag) from exc.__cause__
        if client and client.is_gone():
            raise errors.ClientGone()
        if self._cache is not None:
            self._cache.put(key, scored.predictions)
        return scored

    async def _watched(self, job: Job, client: Client) -> Scored:
        """The result of a job that is dropped when its client hangs up."""
        watcher = asyncio.ensure_future(client.gone())

        def leave(watcher: asyncio.Future[Exception]) -> None:
            if not watcher.cancelled():
                self.batcher.drop(job, watcher.exception() or watcher.result())

        watcher.add_done_callback(leave)
        try:
            return await job.future
        finally:
            watcher.cancel()


class Deployment:
    """The versions of one worker process. Until `start` succeeds, `champion` raises `NotReady` with the reason."""

    def __init__(self, settings: Settings, observer: Observer) -> None:
        self._settings = settings
        self._observer = observer
        self._champion: Variant | None = None
        self._reason = "it is being loaded"

    def start(self, built_with: Sequence[str] = ()) -> None:
        """Loads the version that the settings name; in a Bento, `latest` is the version that it was `built_with`.

        A version that fails is refused and logged, never served.
        """
        log = logs.get()
        settings = self._settings
        try:
            version = ModelVersion.load(store.find(pinned(settings.model, built_with)), threads=settings.threads)
        except (errors.VersionRefused, errors.VersionNotFound) as exc:
            self._reason = exc.message
            log.error("version_refused", model_version=exc.tag, reason=exc.message)
            return
        self._champion = Variant("champion", version, self._observer, settings.cache_bytes)
        log.info(
            "version_loaded",
            model_version=version.tag,
            role="champion",
            fixed_us=round(version.cost.fixed_s * 1e6, 1),
            per_row_us=round(version.cost.per_unit_s * 1e6, 2),
            batch_difference=version.batch_difference,
        )

    @property
    def is_ready(self) -> bool:
        """Whether a version answers."""
        return self._champion is not None

    @property
    def champion(self) -> Variant:
        """The variant that answers. Raises `NotReady` with the reason."""
        if self._champion is None:
            raise errors.NotReady(self._reason)
        return self._champion


def pinned(tag: str, built_with: Sequence[str]) -> str:
    """`tag`, or for `name:latest` the tag in `built_with`: that of the same name, else the first; a Bento has its own.

    Outside of a Bento `built_with` is empty.
    """
    name, _, version = tag.partition(":")
    if version != "latest" or not built_with:
        return tag
    return next((built for built in built_with if built.startswith(f"{name}:")), built_with[0])
