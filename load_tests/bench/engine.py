"""ONNX Runtime called in process, with one thread and nothing around it: what a server's rows/s are compared with."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

import onnxruntime

from causeway.contract import Array
from causeway.runtime import MODEL_FILE
from load_tests.machine import on

N_BATCHES = 16
"""Different batches that take turns."""


class Engine:
    """A model in ONNX Runtime, on the server's core."""

    def __init__(self, folder: Path, X: Array, cores: Iterable[int]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(folder / MODEL_FILE), options, providers=["CPUExecutionProvider"]
        )
        self._input = self._session.get_inputs()[0].name
        self._X = X
        self._cores = cores

    def rows_per_s(self, batch_rows: int, seconds: float) -> float:
        """Rows a second, one batch of `batch_rows` after the other for `seconds`."""
        batches = np.resize(self._X, (N_BATCHES, batch_rows, self._X.shape[1]))
        with on(self._cores):
            self._session.run(None, {self._input: batches[0]})
            done, began = 0, time.perf_counter()
            while time.perf_counter() < began + seconds:
                self._session.run(None, {self._input: batches[done % N_BATCHES]})
                done += 1
            return done * batch_rows / (time.perf_counter() - began)

    def curve(self, sizes: Iterable[int], seconds: float) -> dict[int, float]:
        """Rows a second by batch size."""
        return {size: self.rows_per_s(size, seconds) for size in sizes}
