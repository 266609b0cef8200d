"""ONNX Runtime runs a graph with our input and output, and refuses others."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from causeway.runtime import open_runtime
from causeway.runtime.onnx import OnnxRuntime
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
