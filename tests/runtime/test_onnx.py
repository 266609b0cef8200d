"""ONNX Runtime runs a graph with our input and output, and refuses others; a GPU provider that does nothing too."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from causeway import errors
from causeway.runtime import open_runtime
from causeway.runtime.device import DeviceRuntime
from causeway.runtime.onnx import CPU_PROVIDER, GPU_PROVIDERS, GpuSession, OnnxRuntime, open_on_gpu
from tests import tiny


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / OnnxRuntime.file).write_bytes(tiny.FILES[OnnxRuntime.file])
    return tmp_path


def test_rows_give_the_same_bits_alone_and_in_a_batch(folder: Path) -> None:
    runtime = open_runtime(folder)
    together = runtime.run(tiny.X)
    assert together.dtype == np.float32
    assert together.shape == (len(tiny.X), 1)
    np.testing.assert_array_equal(np.concatenate([runtime.run(row[np.newaxis]) for row in tiny.X]), together)


def test_threads_may_share_one_runtime(folder: Path) -> None:
    runtime = open_runtime(folder)
    expected = runtime.run(tiny.X)
    with ThreadPoolExecutor(4) as pool:
        for predictions in pool.map(lambda _: runtime.run(tiny.X), range(50)):
            np.testing.assert_array_equal(predictions, expected)


@pytest.mark.parametrize(("source", "kind"), [("x", TensorProto.FLOAT), ("features", TensorProto.DOUBLE)])
def test_a_graph_with_another_input_is_refused(tmp_path: Path, source: str, kind: int) -> None:
    node = helper.make_node("Identity", [source], ["predictions"])
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(source, kind, [None, 1])],
        [helper.make_tensor_value_info("predictions", kind, [None, 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="features"):
        open_runtime(tmp_path)


def test_a_run_that_fails_writes_nothing_itself(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / OnnxRuntime.file).write_bytes(tiny.POISONABLE)
    runtime = open_runtime(tmp_path)
    with pytest.raises(Exception, match="idx=5"):
        runtime.run(np.array([[5, 0]], dtype=np.float32))
    assert capfd.readouterr().err == ""


def test_a_provider_s_session_predicts_the_same_in_parts(folder: Path) -> None:
    session = GpuSession(folder / OnnxRuntime.file, 1, CPU_PROVIDER, {})
    runtime = DeviceRuntime("a provider", "cuda:0", session, largest=64)
    np.testing.assert_array_equal(runtime.run(tiny.X), open_runtime(folder).run(tiny.X))


@pytest.mark.skipif("AzureExecutionProvider" not in onnxruntime.get_available_providers(), reason="no idle provider")
def test_a_provider_that_gets_nothing_of_the_model_is_none(folder: Path) -> None:
    with pytest.raises(errors.NoEngine, match="gives nothing of the model to AzureExecutionProvider"):
        GpuSession(folder / OnnxRuntime.file, 1, "AzureExecutionProvider", {})


@pytest.mark.parametrize("provider", sorted(set(GPU_PROVIDERS) - set(onnxruntime.get_available_providers())))
def test_an_onnx_runtime_without_a_provider_says_so(folder: Path, provider: str) -> None:
    with pytest.raises(errors.NoEngine, match=f"this ONNX Runtime has no {provider}"):
        open_on_gpu(folder / OnnxRuntime.file, provider, "cuda:0")
