"""A worker's end of the prediction log: takes what was answered, in memory, and brings it to the spool in a thread.

A request costs some appends; some hundred are packed at once. Where the keeper asks for a sample, only what is chosen
is held at all. Nothing here waits for the disk or the database, and nothing raises: what finds no place is left out and
counted.
"""

from __future__ import annotations

import random
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from causeway import logs
from causeway.monitoring import sampling, spool
from causeway.monitoring.batch import LARGE_BYTES, NUMBERS, Answer, Columns, Payload, RefusedValue, sample_counts
from causeway.monitoring.keeper_process import KeeperProcess

BATCH = 256
"""Requests that are packed at once, at most."""

PACE_S = 0.1
"""How often what was packed is written."""

LOOK_S = 1.0
"""How often the spool's size, the sampling and the keeper are looked at."""

SPOOL_BYTES = 256 * 2**20
"""What the spool of a server takes at most, while the database is away."""

WAITING_BYTES = 32 * 2**20
"""What is packed and waits for the disk at most."""

END_S = 5.0
"""How long the thread is waited for at the end."""


_pack = struct.Struct(f"={len(NUMBERS)}d").pack


class Observer(Protocol):
    """What is told about what was noted, and about rows that do not get into the log."""

    def predicted(self, variants: Sequence[tuple[str, str]], numbers: NDArray[np.float64]) -> None:
        """Requests were answered: role and tag of each one's variant, and numbers (n, 6) as for `Columns.pack`."""

    def left_out(self, reason: str, n_rows: int) -> None:
        """So many rows were left out: `sampled`, `backlog` (the spool is full) or `disk` (it cannot be written)."""


class Recorder:
    """Of one worker, on the event loop; `folder` is the server's spool."""

    def __init__(self, folder: Path, metrics: Observer) -> None:
        self._metrics = metrics
        self._writer = Writer(folder, metrics)
        self._variants: list[tuple[str, str]] = []
        """Of each request since the last flush."""
        self._numbers = bytearray()
        """`NUMBERS` of each."""
        self._kept = Columns()
        """Those of them that are to get into the log."""
        self._places: list[int] = []
        """Which of all they are, where that are not all."""
        self._sampled_rows = 0
        """Of the others."""
        self._factor = 1
        """Of so many in a row one is kept."""
        self._to_skip = 0
        """Requests before the next that is kept."""
        self._refused: Counter[RefusedValue] = Counter()
        self._rng = random.Random()  # noqa: S311 - a sample, not a secret

    def start(self) -> None:
        """From now on what is noted is written, and the server has a keeper."""
        self._writer.start()

    def note(self, request_id: str, started: float, seconds: float, answer: Answer, trace_id: str | None) -> None:
        """Takes one request that began at `started` on `time.perf_counter` and was answered so many seconds later.

        Its arrays must not be changed any more.
        """
        X, _, variant, _, _, phases = answer
        self._variants.append(variant)
        self._numbers += _pack(started, seconds, *phases)
        if self._to_skip:
            self._to_skip -= 1
            self._sampled_rows += len(X)
            return
        self._kept.add(request_id, answer, trace_id)
        if self._factor > 1:
            self._places.append(len(self._variants) - 1)
            self._skip(self._factor - 1 - self._chosen)
        if len(self._kept) >= BATCH or self._kept.n_bytes > LARGE_BYTES:
            self.flush()

    def refused_value(self, tag: str, column: str, reason: str) -> None:
        """Takes a value for which a request was refused: `missing`, `out_of_range` or `not_a_number`."""
        self._refused[tag, column, reason] += 1

    def flush(self) -> None:
        """Packs what was noted; to be called some times a second."""
        variants, self._variants = self._variants, []
        kept, self._kept = self._kept, Columns()
        places, self._places = self._places, []
        sampled_rows, self._sampled_rows = self._sampled_rows, 0
        refused, self._refused = self._refused, Counter()
        numbers, self._numbers = np.frombuffer(self._numbers).reshape(-1, len(NUMBERS)), bytearray()
        factor = self._factor
        self._sample_by(self._writer.factor)
        if variants:
            self._metrics.predicted(variants, numbers)
        if factor > 1:
            self._metrics.left_out("sampled", sampled_rows)
            numbers, refused = numbers[places], Counter(sample_counts(refused, 1 / factor, self._rng))
        if not kept and not refused:
            return
        reason = self._writer.full()
        if reason is not None:
            self._metrics.left_out(reason, kept.n_rows)
            return
        clock = time.time() - time.perf_counter()
        self._writer.put(Packed(kept.pack(numbers, refused, factor=factor, clock=clock), kept.n_rows))

    def _sample_by(self, factor: int) -> None:
        if factor != self._factor:
            self._factor, self._to_skip = factor, 0
            if factor > 1:
                self._skip(0)

    def _skip(self, n: int) -> None:
        """Skips so many, to the end of the requests that one was chosen of, and of the next `factor` those before one
        that is chosen at random: each has the same chance, and the share is exact."""
        self._chosen = self._rng.randrange(self._factor)
        self._to_skip = n + self._chosen

    def close(self) -> None:
        """Writes what was noted, and ends the thread and the keeper; takes seconds."""
        self.flush()
        self._writer.close()


class Packed(NamedTuple):
    """A batch on its way to the disk."""

    payload: Payload
    n_rows: int

    @property
    def n_bytes(self) -> int:
        """Of the payload."""
        return sum(map(len, self.payload))


class Writer:
    """The thread that writes to the spool, and sees to it that there is a keeper."""

    def __init__(self, folder: Path, metrics: Observer) -> None:
        self.factor = 1
        """One of so many predictions is to be kept."""
        self._folder = folder
        self._metrics = metrics
        self._spool = spool.Spool(folder)
        self._keeper = KeeperProcess(folder)
        self._waiting: deque[Packed] = deque()
        self._put_bytes = 0
        self._taken_bytes = 0
        self._is_full = False
        self._troubles: dict[str, str | None] = {}
        self._is_ending = threading.Event()
        self._thread = threading.Thread(target=self._work, name="recorder", daemon=True)

    def start(self) -> None:
        """Begins to write."""
        self._thread.start()

    def full(self) -> str | None:
        """Why there is no room; None where there is."""
        if self._is_full:
            return "backlog"
        return "disk" if self._put_bytes - self._taken_bytes > WAITING_BYTES else None

    def put(self, packed: Packed) -> None:
        """Takes a batch."""
        self._put_bytes += packed.n_bytes
        self._waiting.append(packed)

    def close(self) -> None:
        """Writes what waits, and ends the thread and the keeper."""
        self._is_ending.set()
        if self._thread.is_alive():
            self._thread.join(END_S)

    def _work(self) -> None:
        looked_at = float("-inf")
        while not self._is_ending.wait(PACE_S):
            if time.monotonic() - looked_at >= LOOK_S:  # first: a spool with segments has a keeper's lock
                looked_at = time.monotonic()
                self._look()
            self._write()
        self._write()
        self._spool.close()
        with suppress(OSError):
            self._keeper.end()

    def _write(self) -> None:
        for _ in range(len(self._waiting)):
            packed = self._waiting.popleft()
            self._taken_bytes += packed.n_bytes
            try:
                self._spool.append(packed.payload, packed.n_rows, time.time())
            except Exception as exc:  # the thread goes on: nobody else writes
                self._metrics.left_out("disk", packed.n_rows)
                self._tell("append", str(exc))
            else:
                self._tell("append", None)

    def _look(self) -> None:
        try:
            self._look_after()
        except Exception as exc:  # as in _write
            self._tell("look", str(exc))
        else:
            self._tell("look", None)

    def _look_after(self) -> None:
        self.factor = sampling.told(self._folder)
        n_bytes = spool.n_bytes(self._folder)
        is_full = n_bytes >= SPOOL_BYTES
        if is_full != self._is_full:
            self._is_full = is_full
            logs.get().warning("spool_full" if is_full else "spool_drained", bytes=n_bytes)
        with suppress(OSError):  # what the folder lacks is told when something is written
            self._spool.tend(time.time())
            self._keeper.tend()

    def _tell(self, work: str, trouble: str | None) -> None:
        """Logs that something cannot be done with the spool, or can again, once each."""
        if trouble == self._troubles.get(work):
            return
        self._troubles[work] = trouble
        if trouble is not None:
            logs.get().error("spool_failed", folder=str(self._folder), work=work, reason=trouble)
        else:
            logs.get().info("spool_written", folder=str(self._folder), work=work)
