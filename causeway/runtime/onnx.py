"""ONNX Runtime on CPU: one input `features`, one output `predictions`, both 2-D float32."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

# ONNX Runtime 1.31 uploads usage data unless this is set when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from causeway.contract import Array

INPUT = "features"
OUTPUT = "predictions"


class OnnxRuntime:
    """An ONNX model in memory. `run` may be called from several threads at once."""

    file: ClassVar[str] = "model.onnx"

    def __init__(self, path: Path, *, threads: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4  # what fails is raised, and logged once a second; a line for each has features
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        inputs = {node.name: node for node in self._session.get_inputs()}
        outputs = {node.name for node in self._session.get_outputs()}
        if set(inputs) != {INPUT} or OUTPUT not in outputs:
            raise ValueError(f"the graph must take {INPUT!r} and give {OUTPUT!r}, not {set(inputs)} and {outputs}")
        if inputs[INPUT].type != "tensor(float)":
            raise ValueError(f"{INPUT!r} must be tensor(float), not {inputs[INPUT].type}")

    def run(self, X: Array) -> Array:
        """Predictions (n_rows, output width) float32 of X (n_rows, n_features) float32."""
        predictions: Array = self._session.run([OUTPUT], {INPUT: X})[0]
        return predictions
