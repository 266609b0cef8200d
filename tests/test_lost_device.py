"""Where a GPU fails for good, callers are told to come back, nobody is blamed, and another worker takes over."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest
import structlog
from prometheus_client import CollectorRegistry

from causeway import errors
from causeway.batching import Batcher
from causeway.contract import Array
from causeway.cost import Cost
from causeway.deployment import Deployment
from causeway.monitoring.metrics import Metrics
from causeway.runtime import MODEL_FILE, Candidate
from causeway.runtime.device import DeviceRuntime
from causeway.runtime.onnx import OnnxRuntime
from causeway.settings import Settings
from causeway.state import State
from tests import tiny
from tests.conftest import HOME, PATIENCE_S, Server, serving, wait_until
from tests.monitoring.test_metrics import scraped

ROW, POISON = [1.0, 1.0], [5.0, 1.0]
REASON = "cuda:0 is lost: CUDA error: an illegal memory access was encountered"


class Observer:
    """Keeps what a batcher tells."""

    def __init__(self) -> None:
        self.n_poisoned = 0

    def batch(self, n_rows: int, released: str) -> None:
        pass

    def poisoned(self) -> None:
        self.n_poisoned += 1


def test_a_lost_device_is_no_request_s_fault_and_tried_once_a_batch() -> None:
    calls: list[int] = []

    def predict(X: Array) -> Array:
        calls.append(len(X))
        raise errors.DeviceLost("cuda:0", "CUDA error")

    async def score() -> list[Any]:
        batcher = Batcher(predict, Cost(1e-4, 1e-6), observer)
        jobs = [batcher.submit(tiny.X[:n_rows], 1e6 + asyncio.get_running_loop().time()) for n_rows in (1, 2, 3)]
        return await asyncio.gather(*jobs, return_exceptions=True)

    observer = Observer()
    outcomes = asyncio.run(score())
    assert [type(outcome) for outcome in outcomes] == [errors.DeviceLost] * 3
    assert calls == [6]
    assert observer.n_poisoned == 0


def on_a_gpu(folder: Path, device: str) -> dict[str, str]:
    """The variables of a service on a GPU that can be broken."""
    stored = tiny.saved(model_onnx=tiny.scaled(1.0), samples_json=tiny.SIGMOID_SAMPLES)
    return {
        "CAUSEWAY_MODEL": stored.tag,
        "CAUSEWAY_STATE_FILE": str(folder / "state.json"),
        "CAUSEWAY_DEVICE": device,
        "BROKEN": str(folder / "broken"),
    }


def ask(server: Server, *rows: list[float]) -> httpx.Response:
    return httpx.post(f"{server.url}/predict", json={"features": list(rows)}, timeout=PATIENCE_S)


def health(server: Server) -> Any:
    """What /health says; nothing where the connection was one of a worker that has just ended."""
    try:
        return httpx.get(f"{server.url}/health", timeout=PATIENCE_S).json()
    except httpx.TransportError:
        return {}


def events(server: Server, name: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith('{"')]
    return [line for line in lines if line.get("event") == name]


def test_a_worker_whose_gpu_breaks_is_replaced_by_one_on_the_cpu(tmp_path: Path) -> None:
    with serving(HOME, tmp_path / "log", bento="tests.broken_device:Causeway", **on_a_gpu(tmp_path, "auto")) as server:
        assert ask(server, ROW).json()["predictions"] == pytest.approx(np.array(tiny.sigmoid([ROW])), abs=1e-5)
        assert health(server)["details"]["engines"] == {"champion": "torch cuda:0 fp32"}
        lost = ask(server, POISON)
        assert (lost.status_code, lost.json()["code"]) == (503, "device_lost")
        assert int(lost.headers["retry-after"]) > 0
        assert REASON in lost.json()["error"]

        wait_until(lambda: len(events(server, "version_loaded")) == 2, "another worker", server)
        wait_until(lambda: health(server).get("status") == "healthy", "its health", server)
        assert health(server)["details"]["engines"] == {"champion": "onnxruntime CPUExecutionProvider"}
        assert ask(server, ROW, POISON).status_code == 200
        before, after = events(server, "version_loaded")
        assert (before["device"], after["device"]) == ("cuda:0", "cpu")
        assert after["engines_us"]["torch cuda:0"] == "left out: torch sees 0 CUDA devices"
        assert [event["device"] for event in events(server, "worker_ends")] == ["cuda:0"]
        counted = scraped(server)
        assert counted["causeway_device_lost_total"] == 1
        assert counted["causeway_poisoned_requests_total"] == 0


def test_a_worker_that_must_have_its_gpu_stays_unready_with_the_reason(tmp_path: Path) -> None:
    with serving(HOME, tmp_path / "log", bento="tests.broken_device:Causeway", **on_a_gpu(tmp_path, "cuda")) as server:
        assert ask(server, ROW).status_code == 200
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(ask, server, row) for row in [ROW] * 8 + [POISON] * 8]
        # A connection that the worker takes in the moment in which it ends is closed without an answer.
        cut_off = [each for each in asked if isinstance(each.exception(), httpx.TransportError)]
        assert len(cut_off) < len(asked)
        replies = [each.result() for each in asked if each not in cut_off]
        assert {reply.status_code for reply in replies} <= {200, 503}
        assert all("retry-after" in reply.headers for reply in replies if reply.status_code == 503)

        wait_until(lambda: "no engine" in health(server).get("reason", ""), "a reason", server)
        assert "it has no engine for cuda: torch sees 0 CUDA devices" in health(server)["reason"]
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        (tmp_path / "broken").unlink()
        wait_until(lambda: health(server).get("status") == "healthy", "the GPU", server)
        assert health(server)["details"]["engines"] == {"champion": "torch cuda:0 fp32"}


class ShortOfMemory:
    """Predicts as the processor does, up to 1000 rows."""

    def __init__(self, folder: Path) -> None:
        self._on_cpu = OnnxRuntime(folder / MODEL_FILE)

    def run_all(self, chunks: Sequence[Array]) -> list[Array]:
        if max(map(len, chunks)) > 1000:
            raise RuntimeError("CUDA out of memory.")
        return [self._on_cpu.run(chunk) for chunk in chunks]

    def release(self) -> None:
        pass


def test_what_a_device_does_is_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def on_gpu(folder: Path, *, out_of_memory: Callable[[], None], **_: object) -> list[Candidate]:
        engine = ShortOfMemory(folder)
        return [Candidate("gpu", lambda: DeviceRuntime("gpu", "cuda:0", engine, out_of_memory=out_of_memory))]

    monkeypatch.setattr("causeway.version.candidates", on_gpu)
    registry, tag = CollectorRegistry(), tiny.saved().tag
    metrics = Metrics(registry)
    deployment = Deployment(Settings(model=tag, state_file=str(tmp_path / "state.json")), metrics)
    with structlog.testing.capture_logs() as logged:
        deployment.start()
        deployment.champion.version.predict(np.resize(tiny.X, (8192, 2)))
    n_told = [event["event"] for event in logged].count("out_of_device_memory")
    assert registry.get_sample_value("causeway_device_out_of_memory_total") == n_told > 0
    assert deployment.details()["engines"] == {"champion": "gpu"}

    def workers(engine: str, device: str) -> float | None:
        labels = {"model_version": tag, "engine": engine, "device": device}
        return registry.get_sample_value("causeway_engine_workers", labels)

    metrics.deployed(1, {}, is_followed=True, engines={tag: ("gpu", "cuda:0")})
    assert (workers("gpu", "cuda:0"), workers("cpu", "cpu")) == (1, None)
    metrics.deployed(2, {}, is_followed=True, engines={tag: ("cpu", "cpu")})
    assert (workers("gpu", "cuda:0"), workers("cpu", "cpu")) == (0, 1)


class OnCpu:
    """Predicts as the processor does, and counts what is given back."""

    def __init__(self, folder: Path) -> None:
        self._on_cpu = OnnxRuntime(folder / MODEL_FILE)
        self.n_released = 0

    def run_all(self, chunks: Sequence[Array]) -> list[Array]:
        return [self._on_cpu.run(chunk) for chunk in chunks]

    def release(self) -> None:
        self.n_released += 1


def test_the_memory_of_a_version_is_given_back_once_another_has_replaced_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    engines: list[OnCpu] = []

    def on_gpu(folder: Path, **_: object) -> list[Candidate]:
        def open_() -> DeviceRuntime:
            engines.append(OnCpu(folder))
            return DeviceRuntime("gpu", "cuda:0", engines[-1])

        return [Candidate("gpu", open_)]

    monkeypatch.setattr("causeway.version.candidates", on_gpu)
    first, second = tiny.saved_scaled(1.0).tag, tiny.saved_scaled(2.0).tag
    settings = Settings(model=first, state_file=str(tmp_path / "state.json"))
    deployment = Deployment(settings, Metrics(CollectorRegistry()))
    deployment.start()

    async def promote() -> None:
        deployment.follow()
        async with asyncio.timeout(PATIENCE_S):
            deployment.file.path.write_bytes(msgspec.json.encode(State.of(second)))
            while not engines[0].n_released:
                await asyncio.sleep(0)
        deployment.stop()

    asyncio.run(promote())
    assert deployment.champion.version.tag == second
    assert [engine.n_released for engine in engines] == [1, 0]


def test_a_worker_whose_device_is_lost_while_its_version_loads_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lose() -> DeviceRuntime:
        raise errors.DeviceLost("cuda:0", "CUDA error")

    monkeypatch.setattr("causeway.version.candidates", lambda *_, **__: [Candidate("gpu", lose)])
    monkeypatch.setattr("causeway.deployment.RESTART_S", 0.0)
    ends = Ends(monkeypatch)
    settings = Settings(model=tiny.saved().tag, state_file=str(tmp_path / "state.json"))
    deployment = Deployment(settings, Metrics(CollectorRegistry()))

    async def until_it_ends() -> None:
        deployment.follow()
        async with asyncio.timeout(PATIENCE_S):
            while len(ends.signals) < 2:
                await asyncio.sleep(0)
        deployment.stop()

    with structlog.testing.capture_logs() as logged:
        deployment.start()
        with pytest.raises(errors.NotReady, match="cuda:0 is lost: CUDA error"):
            _ = deployment.champion
        asyncio.run(until_it_ends())
    told = [event["event"] for event in logged if event["log_level"] == "error"]
    assert told == ["device_lost", "worker_ends"]


class Ends:
    """Notes the ends that a worker sets itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.signals: list[int] = []
        monkeypatch.setattr("causeway.deployment.os.kill", lambda pid, number: self.signals.append(number))
        monkeypatch.setattr("causeway.deployment.signal.alarm", lambda seconds: self.signals.append(signal.SIGALRM))


@pytest.mark.parametrize(("restart_s", "expected"), [(0.0, [signal.SIGALRM, signal.SIGTERM]), (1e6, [])])
def test_a_worker_ends_but_not_soon_after_it_began(
    restart_s: float, expected: list[int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends = Ends(monkeypatch)
    monkeypatch.setattr("causeway.deployment.RESTART_S", restart_s)
    stored = tiny.saved()
    registry = CollectorRegistry()
    deployment = Deployment(Settings(model=stored.tag, state_file=str(tmp_path / "state.json")), Metrics(registry))
    deployment.start()
    runtime = deployment.champion.version.runtime

    async def until_lost() -> None:
        deployment.follow()
        monkeypatch.setattr(type(runtime), "lost", "CUDA error")
        async with asyncio.timeout(PATIENCE_S):
            while deployment.is_ready or len(ends.signals) < len(expected):
                await asyncio.sleep(0)
        deployment.stop()

    with structlog.testing.capture_logs() as logged:
        asyncio.run(until_lost())
    assert ends.signals == expected
    with pytest.raises(errors.NotReady, match="cpu is lost: CUDA error"):
        _ = deployment.champion
    assert [event["event"] for event in logged if event["log_level"] == "error"] == ["worker_ends"]
    assert registry.get_sample_value("causeway_device_lost_total") == 1
    assert not any(thread.name == "deployment" for thread in threading.enumerate())
