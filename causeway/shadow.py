"""A version that scores what the champion answers, and is never returned: beside the requests, with what time is left.

Requests hand their rows over in memory. A thread that gives way to all others takes what has gathered, some times a
second, a little at a time: while it holds the interpreter, nobody is answered. Rows are left out, and counted, where it
cannot keep up, or where the event loop has little time left: there, whatever the shadow takes is taken from answers.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from typing import Protocol

import numpy as np

from causeway.contract import Array
from causeway.version import ModelVersion

PACE_S = 0.02
"""How often the thread takes what has gathered."""

BUSY, CALM = 0.6, 0.4
"""The share of its time that the event loop works, above which the shadow gets nothing, until it is below the other."""

WAITING_VALUES = 1_000_000
"""Feature values that wait at most: 4 MB."""

BATCH_S = 0.001
"""What one call of the engine takes at most, where its rows allow."""

NICE = 19
"""By how much the thread gives way to those that answer requests."""


class Observer(Protocol):
    """What is told about the shadow's work."""

    def scored(self, version: ModelVersion, predictions: Array) -> None:
        """The version gave these predictions (n_rows, output width)."""

    def shadowed(self, version: ModelVersion, result: str, n_rows: int) -> None:
        """These rows were `scored`, `dropped` because there was no time, or `failed`."""

    def differed(self, version: ModelVersion, differences: Array) -> None:
        """How far the shadow's predictions (n_rows, output width) were from those that were returned, absolute."""


class Busyness:
    """How busy the thread that asks is: CPU time over time, since it asked last."""

    def __init__(self) -> None:
        self._cpu_s, self._at = time.thread_time(), time.perf_counter()

    def since_last(self) -> float:
        """A share, from 0 to 1."""
        cpu_s, at = time.thread_time(), time.perf_counter()
        busy = (cpu_s - self._cpu_s) / max(at - self._at, 1e-9)
        self._cpu_s, self._at = cpu_s, at
        return busy


class Shadow:
    """Scores rows by `version` in a thread of its own, from `start` to `stop`."""

    def __init__(self, version: ModelVersion, observer: Observer) -> None:
        self.version = version
        self._observer = observer
        self._waiting: deque[tuple[Array, Array]] = deque()
        self._is_paused = False
        self._offered = 0
        self._taken = 0
        self._dropped = 0
        self._told_dropped = 0
        self._limit = max(1, WAITING_VALUES // version.contract.width)
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)

    def start(self) -> None:
        """Begins to work on what is offered."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread soon; rows that wait are left out."""
        self._is_stopping.set()

    def make_room(self, busy: float) -> None:
        """Leaves everything out while the event loop is `busy`, a share of its time from 0 to 1."""
        self._is_paused = busy > (CALM if self._is_paused else BUSY)

    def offer(self, X: Array, predictions: Array) -> None:
        """Hands over rows (n_rows, n_features) with the predictions that were returned for them; costs next to nothing.

        What does not fit is dropped and counted.
        """
        n_rows = len(X)
        if self._is_paused or self._offered - self._taken + n_rows > self._limit:
            self._dropped += n_rows
            return
        self._offered += n_rows
        self._waiting.append((X, predictions))

    def _work(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        at_once = int(min(max(1.0, self.version.cost.size_within(BATCH_S)), self._limit))
        while not self._is_stopping.wait(PACE_S):
            waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
            dropped, self._told_dropped = self._dropped - self._told_dropped, self._dropped
            if dropped:
                self._observer.shadowed(self.version, "dropped", dropped)
            if not waiting:
                continue
            n_rows = sum(len(X) for X, _ in waiting)
            try:
                self._score_all(waiting, at_once)
            except Exception:  # whatever the engine raises: nobody waits for it
                self._observer.shadowed(self.version, "failed", n_rows)
            self._taken += n_rows

    def _score_all(self, waiting: Sequence[tuple[Array, Array]], at_once: int) -> None:
        X, returned = (np.concatenate(arrays) for arrays in zip(*waiting, strict=True))
        predictions = np.empty_like(returned)
        for start in range(0, len(X), at_once):
            if self._is_stopping.is_set():
                return
            predictions[start : start + at_once] = self.version.predict(X[start : start + at_once])
        self._observer.scored(self.version, predictions)
        self._observer.differed(self.version, np.abs(predictions - returned))
        self._observer.shadowed(self.version, "scored", len(X))
