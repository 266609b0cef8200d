"""A variant that passed the gate as a version of its own, beside its parent."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from causeway import store
from causeway.contract import Array, Contract
from causeway.drift import calibration as drift
from causeway.optimise.card import card
from causeway.optimise.half import network_files
from causeway.optimise.kinds import Kind
from causeway.optimise.measure import Figures, opened, scores
from causeway.optimise.parent import ROOT, Parent
from causeway.runtime import MODEL_FILE, Runtime
from causeway.training import provenance
from causeway.training.dataset import Split, Trained
from causeway.training.evaluation import evaluate, train_baseline
from causeway.training.gate import Measured
from causeway.training.report import to_json
from causeway.version import NETWORK_FILES, ModelVersion, Samples


@dataclass(frozen=True)
class _Served:
    """What a runtime predicts, as a scikit-learn classifier gives it."""

    runtime: Runtime

    def predict_proba(self, X: Array) -> NDArray[np.float64]:
        """(n, 2)."""
        positive = scores(self.runtime, X)
        return np.column_stack([1 - positive, positive])


def save(parent: Parent, of_parent: Figures, kind: Kind, model: bytes, own: Figures, parts: Split) -> str:
    """Saves `model`, a variant of that kind with its `own` figures, and returns its tag.

    Contract, samples, evaluation, drift reference and card are its own. The working threshold and the calibration map
    stay the parent's: the gate sees to it that scores mean the same. Files for torch are kept in float16 only: the
    others are for CPUs. Raises `VersionRefused` where what was saved would not load.
    """
    contract = parent.contract_in(kind.precision)
    trained = Trained(_Served(opened(model)))
    evaluation = evaluate(trained, train_baseline(parts.train), parts.test, parent.working)
    measured = Measured(own.difference, own.minimum, own.maximum, own.speeds[0].p50_ms, own.n_bytes)
    test = parts.test
    rows = drift.Samples(parts.train.X, test.X, trained.predict(test.X), test.time)
    reference = drift.calibrate((*contract.names, contract.output.name), rows, parent.seed)
    is_for_gpu = kind.precision == "fp16" and set(NETWORK_FILES) <= parent.files.keys()
    files = {
        **{name: data for name, data in parent.files.items() if name not in NETWORK_FILES},
        **(network_files(parent.stored.path) if is_for_gpu else {}),
        MODEL_FILE: model,
        "contract.json": contract.to_json(),
        "reference.json": reference.to_json(),
        "evaluation.json": to_json({**evaluation.to_dict(), "exported": dataclasses.asdict(measured)}),
        "samples.json": to_json(_samples(parent, contract, trained)),
        "MODEL_CARD.md": card(kind, own, parent, of_parent, evaluation).encode(),
    }
    return store.save(
        parent.tag.partition(":")[0],
        files,
        labels={**parent.stored.labels, "variant": kind.name},
        metadata=_metadata(parent, kind, own),
        accept=ModelVersion.load,
    )


def _samples(parent: Parent, contract: Contract, trained: Trained) -> Samples:
    """The parent's sample rows with the variant's own predictions, each alone."""
    features = parent.samples.features
    alone = [trained.predict(contract.from_features([row])).tolist() for row in features]
    return Samples(features, alone, contract.output.tolerance)


def _metadata(parent: Parent, kind: Kind, own: Figures) -> dict[str, Any]:
    """The parent's, which say how it was trained, with the variant's figures, and what it was made by."""
    taken = {name: value for name, value in parent.stored.metadata.items() if name != "files"}
    told: dict[str, Any] = msgspec.to_builtins(own)
    quality = {name: value for name, value in told.pop("quality").items() if value is not None}
    made_by = {"commit": provenance.commit(ROOT), "versions": provenance.versions()}
    return {**taken, "parent": parent.tag, "quality": quality, "optimised": {**told, **made_by}}
