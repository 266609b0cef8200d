"""Engines: a model file to `run(batch)`. One module per engine."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from causeway.contract import Array
from causeway.runtime.onnx import OnnxRuntime

MODEL_FILE = OnnxRuntime.file


class Runtime(Protocol):
    """What serving asks of an engine."""

    def run(self, X: Array) -> Array:
        """Predictions (n_rows, output width) float32 of X (n_rows, n_features) float32."""


def open_runtime(folder: Path, *, threads: int = 1) -> Runtime:
    """The engine for the model file in `folder`; whatever the engine raises when it cannot open it."""
    return OnnxRuntime(folder / OnnxRuntime.file, threads=threads)
