"""Products in 8-bit integers: a quarter of the bytes, and quicker where the matrices are large enough.

Only products with constant matrices are quantised, each column of weights with a scale of its own, in 7 bits: with 8,
sums overflow on processors without VNNI instructions, which would then predict otherwise (ONNX Runtime's documentation,
"Quantize ONNX models"). The first product stays in float32, since one scale for all features is too coarse for most of
them (on the published data scores then differ by up to 0.32, otherwise by 0.05), and so do the last, and all that is no
product.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.onnx_model import ONNXModel
from onnxruntime.quantization.quant_utils import add_pre_process_metadata

from causeway.contract import Array
from causeway.optimise.graph import Graph, NotMade
from causeway.optimise.rows import representative
from causeway.runtime import MODEL_FILE
from causeway.runtime.onnx import INPUT


def dynamic(model: bytes, rows: Array) -> bytes:
    """`model` with activations scaled by what each batch holds. Raises `NotMade`."""
    plain = ONNXModel(_quantisable(model).model)
    plain.replace_gemm_with_matmul()  # only MatMul has a form with scales of the moment
    graph = Graph(plain.model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, MODEL_FILE)
        quantize_dynamic(graph.model, path, **_options(graph))
        return path.read_bytes()


def static(model: bytes, rows: Array) -> bytes:
    """`model` with activations scaled by what training `rows` (n, n_features) give. Raises `NotMade`."""
    graph = _quantisable(model)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, MODEL_FILE)
        quantize_static(
            graph.model,
            path,
            _Rows(representative(rows)),
            quant_format=QuantFormat.QOperator,
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
            **_options(graph),
        )
        return path.read_bytes()


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    """All rows in one batch, once."""

    def __init__(self, rows: Array) -> None:
        self._batches = iter([{INPUT: rows}])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


def _quantisable(model: bytes) -> Graph:
    graph = Graph.of(model)
    if len(graph.linears) < 3:
        raise NotMade("between its first and its last product with a constant matrix, which stay in float32, is none")
    for node in graph.linears:
        for bias in node.input[2:]:
            graph.set(bias, graph.array(bias).reshape(-1))  # with an axis more, ONNX Runtime's quantizer fails
    simple = onnx.load_from_string(graph.rebuilt(graph.nodes))
    add_pre_process_metadata(simple)
    return Graph(simple)


def _options(graph: Graph) -> dict[str, Any]:
    products = graph.linears[1:-1]
    # A ReLU of a product costs nothing then: its output's least number stands for 0.
    relus = [node for product in products for node in graph.takers(product.output[0]) if node.op_type == "Relu"]
    return {
        "op_types_to_quantize": ["MatMul", "Gemm", "Relu"],
        "nodes_to_quantize": [node.name for node in (*products, *relus)],
        "weight_type": QuantType.QInt8,
        "per_channel": True,
        "reduce_range": True,
    }
