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
from causeway.optimise.made import Made
from causeway.optimise.measure import Figures, Scoring, opened, scores
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


def save(made: Made, parent: Parent, of_parent: Figures, parts: Split) -> str:
    """Saves what was `made` of `parent`, and returns its tag.

    Contract, samples, evaluation, drift reference and card are its own. The working threshold and the calibration map
    stay the parent's: the gate sees to it that scores mean the same. Files for torch are kept in float16 only: the
    others are for CPUs. Raises `VersionRefused` where what was saved would not load.
    """
    own = made.own
    contract = parent.contract_in(made.kind.precision)
    trained = Trained(_Served(opened(made.files[MODEL_FILE])))
    evaluation = evaluate(trained, train_baseline(parts.train), parts.test, parent.working)
    measured = Measured(own.difference, own.minimum, own.maximum, own.speeds[0].p50_ms, own.n_bytes)
    test = parts.test
    rows = drift.Samples(parts.train.X, test.X, trained.predict(test.X), test.time)
    reference = drift.calibrate((*contract.names, contract.output.name), rows, parent.seed)
    files = {
        **{name: data for name, data in parent.files.items() if name not in NETWORK_FILES},
        **made.files,
        "contract.json": contract.to_json(),
        "reference.json": reference.to_json(),
        "evaluation.json": to_json({**evaluation.to_dict(), "exported": dataclasses.asdict(measured)}),
        "samples.json": to_json(_samples(parent, contract, trained)),
        "MODEL_CARD.md": card(made, parent, of_parent, evaluation).encode(),
    }
    return store.save(
        parent.tag.partition(":")[0],
        files,
        labels={**parent.stored.labels, "variant": made.kind.name},
        metadata=_metadata(parent, made),
        accept=ModelVersion.load,
    )


def _samples(parent: Parent, contract: Contract, trained: Trained) -> Samples:
    """The parent's sample rows with the variant's own predictions, each alone."""
    features = parent.samples.features
    alone = [trained.predict(contract.from_features([row])).tolist() for row in features]
    return Samples(features, alone, contract.output.tolerance)


def _metadata(parent: Parent, made: Made) -> dict[str, Any]:
    """The parent's, which say how it was trained, with the variant's figures, and what it was made by."""
    taken = {name: value for name, value in parent.stored.metadata.items() if name != "files"}
    told = _told(made.own)
    quality = told.pop("quality")
    if made.in_torch is not None:
        told["torch"] = _told(made.in_torch)
    made_by = {"commit": provenance.commit(ROOT), "versions": provenance.versions()}
    return {**taken, "parent": parent.tag, "quality": quality, "optimised": {**told, **made_by}}


def _told(scoring: Scoring) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(scoring)
    return {**told, "quality": {name: value for name, value in told["quality"].items() if value is not None}}
