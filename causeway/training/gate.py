"""What a trained model must show before it is saved."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from causeway.contract import Array, Output
from causeway.errors import GateFailed
from causeway.runtime import Runtime
from causeway.training.evaluation import Evaluation

BATCH_ROWS = 4096


@dataclass(frozen=True)
class Limits:
    """The gate's limits."""

    latency_ms: float = 50.0
    """Median milliseconds of the exported model for one row."""
    model_bytes: int = 200_000_000
    """Size of the exported model file."""


@dataclass(frozen=True)
class Measured:
    """What the exported model was measured to do."""

    parity: float
    """Largest absolute difference of its predictions from the original's."""
    minimum: float
    maximum: float
    latency_ms: float
    model_bytes: int


def measure(runtime: Runtime, model: bytes, X: Array, predictions: NDArray[np.float64]) -> Measured:
    """The exported model on X (n_rows, n_features), beside the original's `predictions` (n_rows,).

    Raises `GateFailed` where it does not give one prediction a row.
    """
    output = predictions_of(runtime, X)
    if output.shape != (len(X), 1):
        raise GateFailed([f"exported, it gives shape {output.shape} for {len(X)} rows, not ({len(X)}, 1)"])
    exported = output[:, 0]
    seconds = []
    for row in range(min(len(X), 200)):
        started = time.perf_counter()
        runtime.run(X[row : row + 1])
        seconds.append(time.perf_counter() - started)
    return Measured(
        parity=float(np.abs(exported - predictions).max()),
        minimum=float(exported.min()),
        maximum=float(exported.max()),
        latency_ms=statistics.median(seconds) * 1000,
        model_bytes=len(model),
    )


def predictions_of(runtime: Runtime, X: Array) -> Array:
    """The predictions for X (n_rows, n_features), a bounded number of rows at once: a network's memory is by rows."""
    return np.concatenate([runtime.run(X[start : start + BATCH_ROWS]) for start in range(0, len(X), BATCH_ROWS)])


def check(evaluation: Evaluation, measured: Measured, output: Output, limits: Limits) -> None:
    """Raises `GateFailed` with every reason for which the model is not to be saved."""
    reasons = []
    model, baseline = evaluation.model, evaluation.baseline
    # Both are numbers: a test part without positives is refused when the table is split.
    ap, baseline_ap = model.average_precision or 0.0, baseline.average_precision or 0.0
    if ap < baseline_ap:
        reasons.append(f"the baseline beats it (average precision {baseline_ap:.4f} against {ap:.4f})")
    if ap <= model.positives / model.rows:
        reasons.append(f"its average precision {ap:.4f} is no better than chance")
    if not measured.parity <= output.tolerance:
        reasons.append(f"exported, it differs by {measured.parity:.3g}, more than {output.tolerance:g}")
    if not output.minimum <= measured.minimum <= measured.maximum <= output.maximum:
        told = f"{measured.minimum:g} to {measured.maximum:g}"
        reasons.append(f"it predicts {told}, outside the contract's {output.minimum:g} to {output.maximum:g}")
    if measured.latency_ms > limits.latency_ms:
        reasons.append(f"it takes {measured.latency_ms:.3g} ms for one row, more than {limits.latency_ms:g} ms")
    if measured.model_bytes > limits.model_bytes:
        reasons.append(f"its file has {measured.model_bytes} bytes, more than {limits.model_bytes}")
    if reasons:
        raise GateFailed(reasons)
