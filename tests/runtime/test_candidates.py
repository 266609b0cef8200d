"""Which engines there might be, by the device that is asked for; a GPU is looked for only where that may matter."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from causeway import errors
from causeway.runtime import candidates, open_runtime
from causeway.runtime.device import has_driver
from tests import tiny
from tests.conftest import HOME, ROOT, environment

TORCH, CUDA, TENSORRT = "torch {}", "onnxruntime CUDAExecutionProvider {}", "onnxruntime TensorrtExecutionProvider {}"
CPU = "onnxruntime CPUExecutionProvider"


@pytest.fixture
def with_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causeway.runtime.has_driver", lambda: True)


@pytest.fixture
def without_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causeway.runtime.has_driver", lambda: False)


def names(device: str, folder: Path) -> list[str]:
    return [candidate.name for candidate in candidates(folder, device=device)]


def test_a_forced_cpu_looks_for_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr("causeway.runtime.has_driver")
    assert names("cpu", tmp_path) == [CPU]


def test_without_a_driver_there_is_the_cpu_alone(without_driver: None, tmp_path: Path) -> None:
    assert names("auto", tmp_path) == [CPU]
    for device in ("cuda", "cuda:1"):
        with pytest.raises(errors.NoEngine, match="this machine has no NVIDIA driver"):
            candidates(tmp_path, device=device)


@pytest.mark.parametrize(("device", "gpu"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:3", "cuda:3")])
def test_with_a_driver_every_engine_for_it_is_a_candidate(
    with_driver: None, device: str, gpu: str, tmp_path: Path
) -> None:
    on_gpu = [name.format(gpu) for name in (TORCH, CUDA, TENSORRT)]
    assert names(device, tmp_path) == ([CPU] if device == "auto" else []) + on_gpu


def test_what_an_engine_lacks_is_told(with_driver: None, tmp_path: Path) -> None:
    with pytest.raises(errors.NoEngine) as refused:
        open_runtime(tmp_path, device="cuda")
    assert "torch cuda:0: the version has no network.json" in refused.value.message
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert "this ONNX Runtime has no CUDAExecutionProvider" in refused.value.message


def test_a_machine_without_torch_says_so(with_driver: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "network.json").touch()
    monkeypatch.delitem(sys.modules, "causeway.runtime.network", raising=False)
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(errors.NoEngine, match="torch is not installed"):
        candidates(tmp_path, device="cuda")[0].open()


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered\nmore"), errors.DeviceLost),
        (errors.NoEngine("torch sees 0 CUDA devices"), errors.NoEngine),
        (ValueError("no such operator"), ValueError),
    ],
)
def test_an_engine_whose_device_fails_while_it_is_opened_says_so(
    with_driver: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, raised: Exception, expected: type[Exception]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("causeway.runtime._open_network", fail)
    with pytest.raises(expected) as refused:
        candidates(tmp_path, device="cuda:2")[0].open()
    if isinstance(refused.value, errors.DeviceLost):
        assert refused.value.message == "cuda:2 is lost: CUDA error: an illegal memory access was encountered"


@pytest.mark.skipif(has_driver(), reason="there is an NVIDIA driver")
def test_where_there_is_no_driver_torch_is_not_imported() -> None:
    stored = tiny.saved_network()
    code = f"""
import sys
from causeway import store
from causeway.version import ModelVersion
version = ModelVersion.load(store.find({stored.tag!r}), device="auto")
print(version.runtime.name, *sorted({{"torch", "safetensors", "onnx"}} & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=environment(HOME), capture_output=True, text=True, check=True)
    assert result.stdout.strip() == CPU
