"""What a process takes of its machine: CPU time and memory, late timers, pauses for garbage, GPUs."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge

PACE_S = 0.05
"""How long the timers are that may be late."""

GPU_PACE_S = 5.0
"""How often a GPU is asked, which takes a millisecond or more, in a thread."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage:
    """CPU time and memory of this process, which is a `worker` or the `keeper`.

    prometheus_client has the like, but not where several processes share a folder.
    """

    def __init__(self, process: str, registry: CollectorRegistry) -> None:
        self._cpu = Counter(
            "causeway_process_cpu_seconds_total",
            "CPU time of this server's processes, by what they are: worker or keeper.",
            ("process",),
            registry=registry,
        ).labels(process)
        self._resident = Gauge(
            "causeway_process_resident_bytes",
            "Memory of a process that is not swapped out, by what it is and its process id.",
            ("process",),
            registry=registry,
            multiprocess_mode="liveall",
        ).labels(process)
        self._counted_s = 0.0

    def note(self) -> None:
        """Counts what was used since the last time; takes 20 us."""
        cpu_s = time.process_time()
        self._cpu.inc(cpu_s - self._counted_s)
        self._counted_s = cpu_s
        self._resident.set(resident_bytes())


class Contention:
    """How much of a processor this process gets of what it asks for."""

    def __init__(self) -> None:
        self._before = _scheduled_s()

    def since_last(self) -> tuple[float, float]:
        """Seconds that the main thread ran, and that it waited for a processor, since this was asked the last time.

        Source: proc(5), /proc/[pid]/schedstat. Nothing, where the kernel does not tell.
        """
        (ran, waited), (ran_before, waited_before) = now, _ = _scheduled_s(), self._before
        self._before = now
        return ran - ran_before, waited - waited_before


def _scheduled_s() -> tuple[float, float]:
    with suppress(OSError):
        ran, waited, _ = Path("/proc/self/schedstat").read_text().split()
        return int(ran) / 1e9, int(waited) / 1e9
    return 0.0, 0.0


class Observer(Protocol):
    """What is told about the process."""

    def lagged(self, seconds: float) -> None:
        """A timer fired so late."""

    def collected(self, generation: int, seconds: float) -> None:
        """The garbage collector took so long; in any thread, and at any time, so that locks may be held."""

    def gpu(self, index: int, utilization: float, used_bytes: float, total_bytes: float) -> None:
        """A GPU of this machine computed for this share of the time, and has so much memory; NaN where not known."""


async def watch(observer: Observer) -> None:
    """Tells the observer how this process is, until it is cancelled."""
    with _timed_collections(observer.collected):
        await asyncio.gather(_measure_lag(observer), _ask_gpus(observer))


def resident_bytes() -> int:
    """Memory of this process that is not swapped out."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES


@contextmanager
def _timed_collections(collected: Callable[[int, float], None]) -> Iterator[None]:
    started = 0.0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal started
        if phase == "start":
            started = time.perf_counter()
        else:
            collected(info["generation"], time.perf_counter() - started)

    gc.callbacks.append(note)
    try:
        yield
    finally:
        gc.callbacks.remove(note)


async def _measure_lag(observer: Observer) -> None:
    while True:
        due = time.perf_counter() + PACE_S
        await asyncio.sleep(PACE_S)
        observer.lagged(max(time.perf_counter() - due, 0.0))


async def _ask_gpus(observer: Observer) -> None:
    gpus = await asyncio.to_thread(_gpus)
    while gpus:
        for index, gpu in enumerate(gpus):
            observer.gpu(index, *await asyncio.to_thread(_usage_of, gpu))
        await asyncio.sleep(GPU_PACE_S)


def _gpus() -> list[Any]:
    """The driver's handles of the GPUs; none where there is no driver."""
    import pynvml  # type: ignore[import-untyped]  # takes 30 ms

    try:
        pynvml.nvmlInit()
        return [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError:
        return []


def _usage_of(gpu: Any) -> tuple[float, float, float]:
    """Utilization, used and total bytes; NaN for what the driver does not tell, as of a GPU that is partitioned."""
    import pynvml

    utilization = used = total = math.nan
    with suppress(pynvml.NVMLError):
        memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
        used, total = memory.used, memory.total
        utilization = pynvml.nvmlDeviceGetUtilizationRates(gpu).gpu / 100
    return utilization, used, total
