"""Versions to measure engines with: one of each family, in the store.

Networks have the weights of one epoch, which are as quick as any others. Trees are fitted as always.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import models
from causeway import store
from causeway.drift.calibration import Samples, calibrate
from causeway.runtime import MODEL_FILE
from causeway.store import StoredVersion
from causeway.training.dataset import Split, Trained
from causeway.training.fitting import Fitting
from causeway.training.report import to_json
from causeway.training.samples import samples

TEACHER = "transformer"


def saved(families: Iterable[str], parts: Split, seed: int) -> dict[str, StoredVersion]:
    """A version of each family, under the family's name; `TEACHER` comes before those that learn from it."""
    trained: dict[str, Trained] = {}
    found = {}
    for name in families:
        family, data = models.family(name), parts.train
        if models.needs_teacher(family):
            data = replace(data, teacher_scores=trained[TEACHER].predict(data.X))
        trained[name] = family.train(data, _quick(family.Params()), seed)
        found[name] = store.find(_save(name, family, trained[name], parts, seed))
    return found


def _quick(params: Any) -> Any:
    return replace(params, max_epochs=1) if isinstance(params, Fitting) else params


def _save(name: str, family: models.Family, trained: Trained, parts: Split, seed: int) -> str:
    train, test = parts.train, parts.test
    columns = (*family.CONTRACT.names, family.CONTRACT.output.name)
    reference = calibrate(columns, Samples(train.X, test.X, trained.predict(test.X), test.time), seed)
    files = {
        **models.to_files(family, trained),
        MODEL_FILE: family.to_artifact(trained),
        "contract.json": family.CONTRACT.to_json(),
        "reference.json": reference.to_json(),
        "evaluation.json": b"{}",
        "samples.json": to_json(samples(test, trained)),
        "MODEL_CARD.md": b"To measure speed with; it is not fitted to the end.\n",
    }
    return store.save(name, files, labels={"family": name}, metadata={"seed": seed})
