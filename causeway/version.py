"""A model version that may serve: its files are whole, its engine runs, its samples replay, alone as in company."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np

from causeway import errors
from causeway.codec import Decoder
from causeway.contract import Array, Contract
from causeway.cost import Cost
from causeway.runtime import MODEL_FILE, Runtime, open_runtime
from causeway.store import StoredVersion

FILES = (MODEL_FILE, "contract.json", "reference.json", "evaluation.json", "samples.json", "MODEL_CARD.md")


class Samples(msgspec.Struct, frozen=True):
    """Rows with the predictions that the trained model gave for them, replayed at every load."""

    features: list[list[float]]
    predictions: list[list[float]]
    tolerance: float
    """Largest absolute difference at which the samples hold."""


DEAR_S = 0.010
"""A model that takes longer for one row is tried on few rows when it is loaded."""


@dataclass(frozen=True)
class ModelVersion:
    """A loaded version: `predict` scores rows that went through its `contract`."""

    tag: str
    contract: Contract
    decode: Decoder
    runtime: Runtime
    cost: Cost
    """Of a batch, by rows, as measured when it was loaded."""
    batch_difference: float
    """Most by which a sample's prediction differed between alone and in company; 0 is the same to the bit."""
    example: list[list[float]]
    """Two of the samples' rows, for documentation and first calls."""
    created: datetime | None = None
    """When it was saved."""

    @classmethod
    def load(cls, stored: StoredVersion, *, threads: int = 1) -> ModelVersion:
        """Checks digests, opens the engine, replays the samples, alone and together, and warms up.

        Raises the `VersionRefused` that says which of these failed.
        """
        files = {file: stored.read(file) for file in FILES}
        contract, samples = _read(stored.tag, files)
        try:
            runtime = open_runtime(Path(stored.path), threads=threads)
            X = contract.from_features(samples.features)
            predictions = runtime.run(X)
        except errors.Refusal as exc:
            raise errors.ContractBroken(stored.tag, f"its own samples are outside the contract: {exc}") from exc
        except Exception as exc:
            raise errors.EngineFailed(stored.tag, f"the engine cannot run {MODEL_FILE}: {exc}") from exc
        _compare(stored.tag, contract, samples, predictions)
        cost = measure(runtime, X)
        few = X if cost.seconds(1) < DEAR_S else X[:4]
        difference = _batch_difference(stored.tag, runtime, few)
        if not difference <= samples.tolerance:
            raise errors.BatchDependent(stored.tag, difference, samples.tolerance)
        return cls(
            stored.tag, contract, Decoder(contract), runtime, cost, difference, samples.features[:2], stored.created
        )

    def predict(self, X: Array) -> Array:
        """Predictions (n_rows, output width) float32, as the engine gives them: NaN where it has nothing better.

        Raises whatever the engine does, or `ValueError` where it answers for another number of rows.
        """
        predictions = self.runtime.run(X)
        if len(predictions) != len(X):
            raise ValueError(f"{len(predictions)} predictions for {len(X)} rows")
        return predictions


def measure(runtime: Runtime, X: Array) -> Cost:
    """The cost of a batch on this machine, by rows, from the fastest of a few runs with one row and with up to 256.

    Doubles as the warm-up. A model that needs long for one row is not run with many: its cost is taken as per row.
    """
    one = min(_seconds(runtime, X[:1]) for _ in range(5))
    if one > DEAR_S:
        return Cost(0.0, one)
    rows = np.resize(X, (256, X.shape[1]))
    many = min(_seconds(runtime, rows) for _ in range(3))
    per_row = max(many - one, 0.0) / (len(rows) - 1)
    return Cost(max(one - per_row, 0.0), per_row)


def _batch_difference(tag: str, runtime: Runtime, X: Array) -> float:
    """Most by which predictions differ between each row alone and all of them three times in one batch."""
    try:
        alone = np.concatenate([runtime.run(row[np.newaxis]) for row in X])
        together = runtime.run(np.concatenate([X, X[::-1], X]))
        return float(np.abs(together - np.concatenate([alone, alone[::-1], alone])).max())
    except Exception as exc:
        raise errors.EngineFailed(tag, f"the engine cannot run batches of every size: {exc}") from exc


def _seconds(runtime: Runtime, X: Array) -> float:
    started = time.perf_counter()
    runtime.run(X)
    return time.perf_counter() - started


def _read(tag: str, files: dict[str, bytes]) -> tuple[Contract, Samples]:
    def refuse(file: str, exc: Exception) -> NoReturn:
        raise errors.ContractBroken(tag, f"{file} cannot be read: {exc}") from exc

    try:
        contract = Contract.from_json(files["contract.json"])
    except (msgspec.DecodeError, ValueError) as exc:
        refuse("contract.json", exc)
    try:
        samples = msgspec.json.decode(files["samples.json"], type=Samples)
        np.array(samples.predictions, dtype=np.float64)
    except (msgspec.DecodeError, ValueError) as exc:
        refuse("samples.json", exc)
    return contract, samples


def _compare(tag: str, contract: Contract, samples: Samples, predictions: Any) -> None:
    expected = np.array(samples.predictions, dtype=np.float64)
    if predictions.ndim != 2 or predictions.shape != expected.shape or predictions.shape[1] != contract.output.width:
        shape = f"{predictions.shape} for {expected.shape} saved and {contract.output.width} in the contract"
        raise errors.ContractBroken(tag, f"its predictions have shape {shape}")
    worst = float(np.abs(predictions - expected).max())
    if not worst <= samples.tolerance:
        raise errors.SamplesDiffer(tag, worst, samples.tolerance)
    output = contract.output
    if predictions.min() < output.minimum - samples.tolerance or predictions.max() > output.maximum + samples.tolerance:
        raise errors.ContractBroken(tag, f"it predicts outside {output.minimum:g} to {output.maximum:g}")
