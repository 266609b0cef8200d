"""Networks in torch, on any device: `causeway.networks` says what they compute, this how a device is kept busy.

A batch is padded to a power of two rows, so that few sizes occur: on a GPU each has its CUDA graph, which copies the
rows in, computes, and copies the answers out by one launch. Of a batch in several parts two are under way at a time, on
streams of their own: one is copied while the other is computed.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from causeway import errors, networks
from causeway.contract import Array
from causeway.runtime.device import LARGEST_BATCH, DeviceRuntime

SLOTS = 2
"""Parts of a batch that are under way at a time."""

WARM_UP = 3
"""Runs before a capture: libraries choose their kernels and take their memory in the first ones."""


def open_network(
    folder: Path, device: str = "cpu", *, largest: int = LARGEST_BATCH, out_of_memory: Callable[[], None] = lambda: None
) -> DeviceRuntime:
    """The network in `folder` on `device`, `cpu` or `cuda:N`, warmed up. Raises `NoEngine` where that is not there."""
    launcher = Eager() if device == "cpu" else CudaGraphs(device)
    description, module = networks.load(folder)
    engine = NetworkEngine(module.to(device), description.n_features, device, launcher, largest)
    name = f"torch {device} {description.precision}"
    runtime = DeviceRuntime(name, device, engine, largest=largest, out_of_memory=out_of_memory)
    runtime.warm_up(description.n_features)
    return runtime


class Launcher(Protocol):
    """How a slot's work gets to the device."""

    def launch(self, slot: int, n_rows: int, work: Callable[[], None]) -> None:
        """Begins `work`, which is always the same for a slot and a number of rows."""

    def wait(self, slot: int) -> None:
        """Returns once the slot's work is done."""

    def release(self) -> None:
        """Waits for all work, and gives back all memory that can be had again."""


class Eager:
    """Does the work at once, in this thread."""

    def launch(self, slot: int, n_rows: int, work: Callable[[], None]) -> None:
        """Does it."""
        work()

    def wait(self, slot: int) -> None:
        """It is done."""

    def release(self) -> None:
        """Nothing was kept."""


@cache
def _streams(device: str) -> tuple[list[torch.cuda.Stream], list[torch.cuda.Stream]]:
    """To launch and to capture on, one a slot, for all networks of the process.

    torch has 32 streams a device. It would come to give one to capture on that another network is launched on.
    """
    launching, capturing = (
        [torch.cuda.Stream(device) for _ in range(SLOTS)]  # type: ignore[no-untyped-call]
        for _ in range(2)
    )
    return launching, capturing


def _pools() -> list[Any]:
    return [torch.cuda.graph_pool_handle() for _ in range(SLOTS)]


class CudaGraphs:
    """Captures a slot's work as a CUDA graph the first time, and replays it from then on, on the slot's stream.

    Graphs of one slot share their memory, and the workspaces that libraries have for a stream: they never run at the
    same time, and leave nothing there that is needed later. Source: PyTorch's notes on CUDA semantics, section "CUDA
    Graphs".
    """

    _one_capture = threading.Lock()
    """PyTorch captures one graph at a time in a process, and a device is not waited for while it does."""

    def __init__(self, device: str) -> None:
        if torch.version.cuda is None:
            raise errors.NoEngine("this torch is a build for the CPU only")
        self._device = torch.device(device)
        n_devices = torch.cuda.device_count()
        if self._device.index >= n_devices:
            raise errors.NoEngine(f"torch sees {n_devices} CUDA device{'' if n_devices == 1 else 's'}")
        torch.set_float32_matmul_precision("highest")  # TF32 keeps 10 bits of a mantissa, and the contract's bound not
        self._launching, self._capturing = _streams(device)
        self._pools = _pools()
        self._done = [torch.cuda.Event() for _ in range(SLOTS)]  # type: ignore[no-untyped-call]
        self._graphs: dict[tuple[int, int], torch.cuda.CUDAGraph] = {}

    def launch(self, slot: int, n_rows: int, work: Callable[[], None]) -> None:
        """Launches the graph."""
        graph = self._graphs.get((slot, n_rows))
        if graph is None:
            graph = self._graphs[slot, n_rows] = self._captured(slot, work)
        with torch.cuda.stream(self._launching[slot]):
            graph.replay()
            self._done[slot].record()

    def wait(self, slot: int) -> None:
        """Waits for the event behind the slot's last graph."""
        self._done[slot].synchronize()

    def release(self) -> None:
        """Lets go of the graphs, which are captured again when they are asked for, and of what torch keeps."""
        with self._one_capture:
            torch.cuda.synchronize(self._device)
            self._graphs.clear()
            self._pools = _pools()  # one whose capture could not be ended is never captured into again
            torch.cuda.empty_cache()

    def _captured(self, slot: int, work: Callable[[], None]) -> torch.cuda.CUDAGraph:
        graph, stream = torch.cuda.CUDAGraph(), self._capturing[slot]
        with self._one_capture, torch.cuda.stream(stream):
            torch.cuda.synchronize(self._device)
            for _ in range(WARM_UP):
                work()
            # Other threads may go on: what they do with CUDA meanwhile is no part of it.
            with torch.cuda.graph(graph, self._pools[slot], stream, capture_error_mode="thread_local"):
                work()
        return graph


class NetworkEngine:
    """Runs a module that maps rows (n, n_features) float32 to predictions (n, 1) float32."""

    def __init__(
        self, module: nn.Module, n_features: int, device: str, launcher: Launcher, largest: int = LARGEST_BATCH
    ) -> None:
        self._launcher = launcher
        self._slots = [Slot(module, n_features, device, largest) for _ in range(SLOTS)]

    def run_all(self, chunks: Sequence[Array]) -> list[Array]:
        """Of each chunk (n_rows, n_features) its predictions (n_rows, 1)."""
        under_way: deque[tuple[int, int]] = deque()
        found = []
        for number, X in enumerate(chunks):
            if len(under_way) == SLOTS:
                found.append(self._end(*under_way.popleft()))
            slot = number % SLOTS
            self._begin(slot, X)
            under_way.append((slot, len(X)))
        return found + [self._end(*each) for each in under_way]

    def release(self) -> None:
        """Waits for what is being computed, and gives back all memory that can be had again."""
        self._launcher.release()

    def _begin(self, slot: int, X: Array) -> None:
        self._launcher.wait(slot)  # the device may still read what a call left there that failed
        place, n_rows = self._slots[slot], 1 << (len(X) - 1).bit_length()
        place.rows[: len(X)] = X
        self._launcher.launch(slot, n_rows, partial(place.compute, n_rows))

    def _end(self, slot: int, n_rows: int) -> Array:
        self._launcher.wait(slot)
        answers: Array = self._slots[slot].answers[:n_rows].copy()
        return answers


class Slot:
    """Where one part of a batch is laid down for the device, and its answers come back.

    On the way to a GPU that is pinned memory: from any other, CUDA copies only while the processor waits.
    """

    def __init__(self, module: nn.Module, n_features: int, device: str, largest: int) -> None:
        self._module = module
        self._device = device
        is_pinned = device != "cpu"
        self._rows = torch.zeros((largest, n_features), pin_memory=is_pinned)
        self._answers = torch.zeros((largest, 1), pin_memory=is_pinned)
        self.rows: Array = self._rows.numpy()
        """(largest, n_features); behind the rows of a batch are those of one before, whose answers nobody reads."""
        self.answers: Array = self._answers.numpy()
        """(largest, 1)."""

    @torch.inference_mode()
    def compute(self, n_rows: int) -> None:
        """Answers the first `n_rows` rows; on a GPU, has it begin to."""
        rows = self._rows[:n_rows].to(self._device, non_blocking=True)
        self._answers[:n_rows].copy_(self._module(rows), non_blocking=True)
