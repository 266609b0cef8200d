"""A model version that may serve: its files are whole, its engine runs, its samples replay, alone as in company."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import numpy as np

from causeway import errors
from causeway.codec import Decoder
from causeway.contract import Array, Contract
from causeway.cost import Cost
from causeway.networks import DESCRIPTION_FILE, WEIGHTS_FILE
from causeway.runtime import MODEL_FILE, Runtime, candidates
from causeway.runtime.choice import choose
from causeway.store import StoredVersion

FILES = (MODEL_FILE, "contract.json", "reference.json", "evaluation.json", "samples.json", "MODEL_CARD.md")
NETWORK_FILES = (DESCRIPTION_FILE, WEIGHTS_FILE)
"""Of a network too, both or neither: what it runs from on a GPU."""


class Samples(msgspec.Struct, frozen=True):
    """Rows with the predictions that the trained model gave for them, replayed at every load."""

    features: list[list[float]]
    predictions: list[list[float]]
    tolerance: float
    """Largest absolute difference at which the samples hold."""


DEAR_S = 0.010
"""A model that takes longer for one row is tried on few rows when it is loaded."""

MANY_ROWS = (256, 2048, 8192)
"""Batches that show what a row costs: the first of them that takes long beside one row, as on a GPU few do."""

FEW_ROWS = 4
"""The same for a model that is dear."""


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
    engines: Mapping[str, tuple[float, ...] | str] = field(default_factory=dict)
    """Those that it was chosen from: see `causeway.runtime.choice.Choice.figures`."""

    @classmethod
    def load(
        cls,
        stored: StoredVersion,
        *,
        threads: int = 1,
        device: str = "cpu",
        out_of_memory: Callable[[], None] = lambda: None,
    ) -> ModelVersion:
        """Checks digests, opens the engine, replays the samples, alone and together, and warms up.

        Where several engines can do that on `device`, it has the quickest: see `causeway.runtime.candidates`. Raises
        the `VersionRefused` that says what failed, or `DeviceLost`, which is no fault of the version.
        """
        files = {file: stored.read(file) for file in FILES}
        if any(stored.has(file) for file in NETWORK_FILES):
            for file in NETWORK_FILES:
                stored.read(file)
        contract, samples = _read(stored.tag, files)
        try:
            X = contract.from_features(samples.features)
        except errors.BadRequest as exc:
            raise errors.ContractBroken(stored.tag, f"its own samples are outside the contract: {exc}") from exc
        accept = partial(_accepted, stored.tag, contract, samples, X)
        try:
            engines = candidates(Path(stored.path), threads=threads, device=device, out_of_memory=out_of_memory)
            choice = choose(engines, accept, X)
        except (errors.VersionRefused, errors.DeviceLost):
            raise
        except errors.NoEngine as exc:
            raise errors.EngineFailed(stored.tag, f"it has no engine for {device}: {exc.message}") from exc
        except Exception as exc:
            raise errors.EngineFailed(stored.tag, f"the engine cannot run {MODEL_FILE}: {exc}") from exc
        cost, difference = choice.accepted
        return cls(
            stored.tag,
            contract,
            Decoder(contract),
            choice.runtime,
            cost,
            difference,
            samples.features[:2],
            stored.created,
            choice.figures,
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
    """The cost of a batch on this machine, by rows, from the fastest of a few runs with one row and with many.

    Doubles as the warm-up. A model that needs long for one row is tried with few, once.
    """
    one = min(_seconds(runtime, X[:1]) for _ in range(5))
    is_dear = one > DEAR_S
    for n_rows in (FEW_ROWS,) if is_dear else MANY_ROWS:
        rows = np.resize(X, (n_rows, X.shape[1]))
        many = min(_seconds(runtime, rows) for _ in range(1 if is_dear else 3))
        if many > 2 * one:
            break
    per_row = max(many - one, 0.0) / (n_rows - 1)
    return Cost(max(one - per_row, 0.0), per_row)


def _accepted(tag: str, contract: Contract, samples: Samples, X: Array, runtime: Runtime) -> tuple[Cost, float]:
    """What a batch costs, and by how much it changes a prediction. Raises `VersionRefused` or what the engine does."""
    try:
        _compare(tag, contract, samples, runtime.run(X))
    except errors.SamplesDiffer:  # each was saved as it is alone
        difference = _batch_difference(tag, runtime, X[:FEW_ROWS])
        if difference > contract.output.tolerance:
            raise errors.BatchDependent(tag, difference, contract.output.tolerance) from None
        raise
    cost = measure(runtime, X)
    few = X if cost.seconds(1) < DEAR_S else X[:FEW_ROWS]
    difference = _batch_difference(tag, runtime, few)
    if not difference <= contract.output.tolerance:
        raise errors.BatchDependent(tag, difference, contract.output.tolerance)
    return cost, difference


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
