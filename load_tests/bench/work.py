"""What is served and asked: the trained models, and requests with the answers that the models themselves give."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestClassifier

from causeway.contract import Array
from causeway.drift.reference import reference as drift_reference
from causeway.runtime import MODEL_FILE
from causeway.training import Dataset, Trained, sklearn_to_onnx
from causeway.training.dataset import Split, split
from causeway.training.samples import samples
from load_tests.bench.plan import Plan
from models import gradient_boosting
from models.transactions import CONTRACT

ROOT = Path(__file__).parents[2]
PICKLED = "model.joblib"
FIXED_SMALL, FIXED_LARGE = "answer_small.json", "answer_large.json"
"""What the ceiling answers: as many bytes as Causeway's answers to one row and to many."""

N_SMALL, N_LARGE = 32, 4
"""Different bodies of one row, and of many: enough that no branch predictor and no cache knows the next one."""

DEAR_ROWS = 2_000
"""Rows without fraud that the dear forest is trained on, beside all with it: enough for some 250 leaves a tree."""


@dataclass(frozen=True)
class Work:
    """Requests, and the model's own answers to them."""

    bodies: tuple[bytes, ...]
    expected: tuple[NDArray[np.float64], ...]
    """Per body its predictions, (n_rows,)."""
    file: Path
    """The bodies, one a line, for wrk."""

    @property
    def n_rows(self) -> int:
        """Rows in each body."""
        return len(self.expected[0])


@dataclass(frozen=True)
class Model:
    """A trained model in every form that a contestant serves, and rows to ask it about."""

    tag: str
    """Where it is in BentoML's store; `name:latest`."""
    folder: Path
    """Holds model.joblib, model.onnx, and the ceiling's fixed answers."""
    X: Array
    """(n_rows, 15) test rows from all over the range of scores, in random order."""
    predict: Callable[[Array], NDArray[np.float64]]
    """The trained model in process: what every contestant's answers are compared with."""
    facts: dict[str, Any]
    """What it is, for the result file."""

    def work(self, n_rows: int) -> Work:
        """Different bodies of `n_rows` rows each."""
        n_bodies = N_SMALL if n_rows == 1 else N_LARGE
        X = np.resize(self.X, (n_bodies, n_rows, self.X.shape[1]))
        bodies = tuple(orjson.dumps({"features": rows}, option=orjson.OPT_SERIALIZE_NUMPY) for rows in X)
        file = self.folder / f"bodies_{n_rows}"
        file.write_bytes(b"\n".join(bodies) + b"\n")
        return Work(bodies, tuple(self.predict(rows) for rows in X), file)


def train_reference(plan: Plan, folder: Path, home: Path) -> Model:
    """The model that `make serve` serves, by the same command, and once more in process for those that unpickle it."""
    folder.mkdir()
    command = [sys.executable, "train_and_save.py", "gradient_boosting", "--seed", str(plan.seed)]
    environment = {**os.environ, "BENTOML_HOME": str(home)}
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as saving:
        parts = _parts(plan.seed)
        trained = gradient_boosting.train(parts.train, gradient_boosting.Params(), plan.seed)
        shown, _ = saving.communicate()
    assert saving.returncode == 0, shown
    (folder / MODEL_FILE).write_bytes(gradient_boosting.to_artifact(trained))
    joblib.dump(trained.model, folder / PICKLED)
    X = _spread(parts.test.X, trained, plan)
    for name, n_rows in ((FIXED_SMALL, 1), (FIXED_LARGE, plan.many_rows)):
        (folder / name).write_bytes(_fixed_answer(trained.predict(np.resize(X, (n_rows, X.shape[1])))))
    facts = {"family": "gradient_boosting", "params": vars(gradient_boosting.Params()), "rows": len(parts.train)}
    return Model("fraud:latest", folder, X, trained.predict, facts)


def train_dear(plan: Plan, folder: Path, home: Path) -> Model:
    """A random forest so large that its nodes do not fit the caches: milliseconds for a row, much less in a batch."""
    folder.mkdir()
    parts, rng = _parts(plan.seed), np.random.default_rng(plan.seed)
    fraud, other = np.flatnonzero(parts.train.y), np.flatnonzero(parts.train.y == 0)
    rows = np.concatenate([fraud, rng.choice(other, DEAR_ROWS, replace=False)])
    forest = RandomForestClassifier(plan.dear_trees, max_features=2, random_state=plan.seed)
    trained = Trained(forest.fit(parts.train.X[rows], parts.train.y[rows]))
    model = sklearn_to_onnx(forest, CONTRACT.width)
    (folder / MODEL_FILE).write_bytes(model)
    test = parts.test.take(rng.choice(len(parts.test), 512, replace=False))
    tag = _save("dear", model, test, trained, home)
    facts = {"estimator": repr(forest), "rows": len(rows), "model_bytes": len(model), "tag": tag}
    return Model("dear:latest", folder, _spread(test.X, trained, plan), trained.predict, facts)


@functools.cache
def _parts(seed: int) -> Split:
    """The reference model's training and test rows: simulated, and split as train_and_save.py splits them."""
    return split(gradient_boosting.default_data(seed), seed=seed)


def _spread(X: Array, trained: Trained, plan: Plan, n: int = 4_096) -> Array:
    """At most `n` rows of X from all over the range of scores, shuffled: an answer to the wrong row is noticed."""
    order = np.argsort(trained.predict(X), kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(n, len(order))).astype(np.intp)]
    spread: Array = X[np.random.default_rng(plan.seed).permutation(rows)]
    return spread


def _fixed_answer(predictions: NDArray[np.float64]) -> bytes:
    """An answer in the form of the wire contract, as long as Causeway's."""
    answer = {
        "predictions": predictions.astype(np.float32)[:, np.newaxis],
        "model_version": "fraud:sh3yrixgbcrtoax4",
        "latency_ms": 0.123,
        "request_id": "0123456789abcdef" * 2,
        "variant": "champion",
    }
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _save(name: str, model: bytes, test: Dataset, trained: Trained, home: Path) -> str:
    """A whole version in the store of `home`, which BENTOML_HOME must have named when bentoml was imported."""
    from causeway import store

    columns: dict[str, NDArray[np.floating[Any]]] = dict(zip(CONTRACT.names, test.X.T, strict=True))
    columns[CONTRACT.output.name] = trained.predict(test.X)
    files = {
        MODEL_FILE: model,
        "contract.json": CONTRACT.to_json(),
        "reference.json": msgspec.json.encode(drift_reference(columns)),
        "evaluation.json": b"{}",
        "samples.json": msgspec.json.encode(samples(test, trained)),
        "MODEL_CARD.md": b"# A forest for the benchmark\n",
    }
    tag = store.save(name, files, labels={"family": "random_forest"}, metadata={"seed": 0})
    assert store.find(tag).path.is_relative_to(home), "BENTOML_HOME was not set when bentoml was imported"
    return tag
