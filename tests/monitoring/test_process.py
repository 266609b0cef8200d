"""What a process takes of its machine is told as it is."""

from __future__ import annotations

import asyncio
import gc
import math
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from types import SimpleNamespace

import psutil
import pytest
from prometheus_client import CollectorRegistry

from causeway.monitoring import process
from causeway.monitoring.process import PACE_S, Usage, watch
from tests.conftest import PATIENCE_S, ROOT

CONTENDED = """
import os, subprocess, sys
from causeway.monitoring.process import Contention

contention = Contention()
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
os.nice(19)
ran_s = waited_s = 0.0
try:
    while waited_s <= ran_s:
        more_ran_s, more_waited_s = contention.since_last()
        ran_s, waited_s = ran_s + more_ran_s, waited_s + more_waited_s
finally:
    other.kill()
    other.wait()
assert ran_s > 0
"""


class Told:
    """An observer that keeps what it is told, and wakes whoever waits for more."""

    def __init__(self) -> None:
        self.lags: list[float] = []
        self.pauses: list[tuple[int, float]] = []
        self.gpus: list[tuple[int, float, float, float]] = []
        self.more = asyncio.Event()

    def lagged(self, seconds: float) -> None:
        self.lags.append(seconds)
        self.more.set()

    def collected(self, generation: int, seconds: float) -> None:
        self.pauses.append((generation, seconds))

    def gpu(self, *told: float) -> None:
        self.gpus.append(told)
        self.more.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self.more.clear()
                await self.more.wait()


def while_watched(work: Callable[[Told], Awaitable[None]]) -> Told:
    """What an observer was told while `work` was done."""

    async def main() -> Told:
        told = Told()
        watching = asyncio.create_task(watch(told))
        try:
            await work(told)
        finally:
            watching.cancel()
            await asyncio.wait([watching])
        assert watching.cancelled()
        return told

    return asyncio.run(main())


def test_a_blocked_event_loop_is_told_as_lag() -> None:
    async def block(told: Told) -> None:
        await told.until(lambda: len(told.lags) >= 2)
        time.sleep(4 * PACE_S)  # what is measured, not waiting
        n = len(told.lags)
        await told.until(lambda: len(told.lags) > n)

    told = while_watched(block)
    assert max(told.lags) >= 3 * PACE_S
    assert min(told.lags) >= 0


def test_pauses_for_garbage_are_told_by_generation_while_it_is_watched() -> None:
    before = list(gc.callbacks)

    async def collect(told: Told) -> None:
        await told.until(lambda: bool(told.lags))
        for generation in (0, 2):
            gc.collect(generation)

    told = while_watched(collect)
    assert {0, 2} <= {generation for generation, _ in told.pauses}
    assert all(seconds > 0 for _, seconds in told.pauses)
    assert gc.callbacks == before


class NoDriver(Exception):
    """As pynvml.NVMLError."""


def driver(monkeypatch: pytest.MonkeyPatch, n_gpus: int, *, is_partitioned: bool = False) -> None:
    """Stands in for NVIDIA's driver with as many GPUs; without any, there is no driver."""

    def init() -> None:
        if not n_gpus:
            raise NoDriver

    def utilization(index: int) -> SimpleNamespace:
        if is_partitioned:
            raise NoDriver
        return SimpleNamespace(gpu=25 + index)

    fake = SimpleNamespace(
        NVMLError=NoDriver,
        nvmlInit=init,
        nvmlDeviceGetCount=lambda: n_gpus,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda index: SimpleNamespace(used=index, total=2**34),
        nvmlDeviceGetUtilizationRates=utilization,
    )
    monkeypatch.setitem(sys.modules, "pynvml", fake)


def test_gpus_are_told_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, 2)
    told = while_watched(lambda told: told.until(lambda: len(told.gpus) == 2))
    assert told.gpus == [(0, 0.25, 0, 2**34), (1, 0.26, 1, 2**34)]


def test_a_gpu_that_is_partitioned_has_memory_but_no_utilization(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, 1, is_partitioned=True)
    ((index, utilization, *memory),) = while_watched(lambda told: told.until(lambda: bool(told.gpus))).gpus
    assert (index, memory) == (0, [0, 2**34])
    assert math.isnan(utilization)


def test_without_a_driver_there_are_no_gpus_and_the_rest_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    driver(monkeypatch, 0)
    told = while_watched(lambda told: told.until(lambda: len(told.lags) >= 2))
    assert told.gpus == []


def test_cpu_time_and_memory_are_those_of_this_process() -> None:
    registry = CollectorRegistry()
    usage = Usage("keeper", registry)
    before = time.process_time()
    for _ in range(2):
        usage.note()
    cpu_s = registry.get_sample_value("causeway_process_cpu_seconds_total", {"process": "keeper"})
    assert before <= cpu_s <= time.process_time()
    resident = registry.get_sample_value("causeway_process_resident_bytes", {"process": "keeper"})
    assert resident == pytest.approx(psutil.Process().memory_info().rss, rel=0.2)
    assert process.resident_bytes() > 2**20


def test_a_process_that_must_wait_for_a_processor_knows_it() -> None:
    subprocess.run([sys.executable, "-c", CONTENDED], check=True, cwd=ROOT, timeout=PATIENCE_S)
