"""The graph as ONNX Runtime would make it while loading, made ahead."""

from __future__ import annotations

import onnxruntime

from causeway.contract import Array
from causeway.optimise.graph import optimised


def compiled(model: bytes, rows: Array) -> bytes:
    """`model` with nodes fused by ONNX Runtime's extended optimisations, those that hold on every processor."""
    return bytes(optimised(model, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED).SerializeToString())
