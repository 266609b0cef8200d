"""What may go wrong on a device that the processor only hands work to: it has no memory left, or no work comes back."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np

from causeway import errors, logs
from causeway.contract import Array

LARGEST_BATCH = 8192
"""Rows that a GPU computes at once, at most."""

_OUT_OF_MEMORY = re.compile("out of memory|alloc_failed|failed to allocate memory", re.IGNORECASE)
_LOST = re.compile("(cuda|cudnn|cublas) (error|failure)|already recording to mempool", re.IGNORECASE)


def has_driver() -> bool:
    """Whether an NVIDIA driver is installed. CUDA is not started by that."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def failure(exc: BaseException) -> Literal["out_of_memory", "lost"] | None:
    """What an engine's error says of its device; None where the fault is in what was to be computed.

    An error of CUDA that is not about memory stays: every later call of the process fails as well. Source: CUDA Runtime
    API, section "Error Handling". torch and ONNX Runtime have classes for some of these errors, and texts for all.
    """
    cause: BaseException | None = exc
    while cause is not None:
        # What cleaning up raised after memory ran out is no other failure.
        if _OUT_OF_MEMORY.search(str(cause)):
            return "out_of_memory"
        cause = cause.__context__
    return "lost" if _LOST.search(str(exc)) else None


class Engine(Protocol):
    """What computes on such a device."""

    def run_all(self, chunks: Sequence[Array]) -> list[Array]:
        """Of each chunk (n_rows, n_features) its predictions (n_rows, output width)."""

    def release(self) -> None:
        """Waits for what is being computed, and gives back all memory that can be had again."""


class DeviceRuntime:
    """An engine on a device that can fail. `run` may be called from several threads, which wait for each other.

    Where memory runs out, batches become half as large and stay so; `out_of_memory` is called each time. Where there is
    none for one row either, no request is to blame: the device is lost, as it is when it fails. From then on `run`
    raises `DeviceLost`.
    """

    def __init__(
        self,
        name: str,
        device: str,
        engine: Engine,
        *,
        largest: int = LARGEST_BATCH,
        out_of_memory: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = name
        self.device = device
        self.largest = largest
        """Rows that it computes at once, at most."""
        self.lost: str | None = None
        self._engine = engine
        self._out_of_memory = out_of_memory
        self._lock = threading.Lock()

    def run(self, X: Array) -> Array:
        """Predictions (n_rows, output width) float32 of X (n_rows, n_features) float32.

        Raises `DeviceLost`, or what the engine raises about the rows.
        """
        with self._lock:
            while True:
                if self.lost is not None:
                    raise errors.DeviceLost(self.device, self.lost)
                try:
                    return self._predict(X)
                except Exception as exc:
                    at_once = min(len(X), self.largest)
                    problem = failure(exc)
                    if problem == "lost" or (problem is not None and at_once <= 1):
                        self.lost = str(exc).partition("\n")[0]
                        raise errors.DeviceLost(self.device, self.lost) from exc
                    if problem is None:
                        raise
                self._shrink(at_once)  # not among the handling: that keeps the tensors of the failed call

    def warm_up(self, n_features: int) -> None:
        """Runs batches of every size that the engine distinguishes, so that no request waits for its first one."""
        self.run(np.zeros((2 * self.largest, n_features), np.float32))
        n_rows = self.largest
        while n_rows > 1:
            n_rows //= 2
            self.run(np.zeros((n_rows, n_features), np.float32))

    def close(self) -> None:
        """Gives back the memory that it keeps on the device, once no batch is computed; `run` would take it again."""
        with self._lock:
            if self.lost is None:
                self._engine.release()

    def _predict(self, X: Array) -> Array:
        predictions = self._engine.run_all([X[part] for part in parts(len(X), self.largest)])
        return predictions[0] if len(predictions) == 1 else np.concatenate(predictions)

    def _shrink(self, at_once: int) -> None:
        """The next smaller power of two rows at once, from now on."""
        self.largest = 1 << (at_once - 1).bit_length() - 1
        logs.get().warning("out_of_device_memory", engine=self.name, rows=at_once, rows_from_now_on=self.largest)
        self._out_of_memory()
        self._engine.release()


def parts(n_rows: int, largest: int) -> list[slice]:
    """Rows 0 to `n_rows` in parts of `largest`; what is left over comes first."""
    first = (n_rows - 1) % largest + 1
    return [slice(0, first), *(slice(start, start + largest) for start in range(first, n_rows, largest))]
