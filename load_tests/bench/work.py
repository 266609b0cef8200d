"""What is served and asked: the models, and requests with the answers that the models themselves give."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import orjson
from numpy.typing import NDArray

from causeway.contract import Array
from causeway.runtime import MODEL_FILE
from causeway.training.dataset import split
from load_tests.bench.plan import Plan
from load_tests.dear import Predict, save
from load_tests.forest import Forest
from models import gradient_boosting

ROOT = Path(__file__).parents[2]
PICKLED = "model.joblib"
FIXED_SMALL, FIXED_LARGE = "answer_small.json", "answer_large.json"
"""What the ceiling answers: as many bytes as Causeway's answers to one row and to many."""

N_SMALL, N_LARGE = 32, 4
"""Different bodies of one row, and of many: enough that no branch predictor and no cache knows the next one."""

N_ROWS = 4_096
"""Rows that the bodies are made of."""

VERSIONED = "versioned"
FAMILY = "gradient_boosting"
RATES = (0.03, 0.07)
"""Learning rates of the other versions, both sides of the reference's: as many trees, and other predictions."""


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
    """A model in every form that a contestant serves, and rows to ask it about."""

    tag: str
    """Where it is in BentoML's store."""
    folder: Path
    """Holds model.onnx; the reference model's also model.joblib and the ceiling's fixed answers."""
    X: Array
    """(n_rows, n_features) test rows in random order."""
    predict: Predict
    """The model in process: what every contestant's answers are compared with."""
    facts: dict[str, Any]
    """What it is, for the result file."""

    def work(self, n_rows: int) -> Work:
        """Different bodies of `n_rows` rows each."""
        n_bodies = N_SMALL if n_rows == 1 else N_LARGE
        X = np.resize(self.X, (n_bodies, n_rows, self.X.shape[1]))
        bodies = tuple(body(rows) for rows in X)
        file = self.folder / f"bodies_{n_rows}"
        file.write_bytes(b"\n".join(bodies) + b"\n")
        return Work(bodies, tuple(self.predict(rows) for rows in X), file)


def body(X: Array) -> bytes:
    """The JSON that asks for X (n_rows, n_features)."""
    return orjson.dumps({"features": np.ascontiguousarray(X)}, option=orjson.OPT_SERIALIZE_NUMPY)


def reference(plan: Plan, folder: Path) -> Model:
    """The model that `make serve` serves, by the same command, and once more in process for those that unpickle it."""
    folder.mkdir()
    command = [sys.executable, "train_and_save.py", FAMILY, "--seed", str(plan.seed), "--if-missing"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as saving:
        parts = split(gradient_boosting.default_data(plan.seed), seed=plan.seed)
        trained = gradient_boosting.train(parts.train, gradient_boosting.Params(), plan.seed)
        shown, _ = saving.communicate()
    assert saving.returncode == 0, shown
    (folder / MODEL_FILE).write_bytes(gradient_boosting.to_artifact(trained))
    joblib.dump(trained.model, folder / PICKLED)
    X = _spread(parts.test.X, trained.predict, plan.seed)
    for name, n_rows in ((FIXED_SMALL, 1), (FIXED_LARGE, plan.many_rows)):
        (folder / name).write_bytes(_fixed_answer(trained.predict(np.resize(X, (n_rows, X.shape[1])))))
    facts = {"family": FAMILY, "params": vars(gradient_boosting.Params()), "rows": len(parts.train)}
    return Model("fraud:latest", folder, X, trained.predict, facts)


def versions(plan: Plan, reference: Model, folder: Path) -> tuple[Model, ...]:
    """The reference model, and two of the same size that predict something else, as versions of one name.

    It is not the reference's own name, whose `latest` other scenarios serve.
    """
    graph = (reference.folder / MODEL_FILE).read_bytes()
    made = [replace(reference, tag=save(VERSIONED, graph, reference.predict, like=reference.tag, family=FAMILY))]
    data = split(gradient_boosting.default_data(plan.seed), seed=plan.seed).train
    for rate in RATES:
        params = gradient_boosting.Params(learning_rate=rate)
        trained = gradient_boosting.train(data, params, plan.seed)
        artifact = gradient_boosting.to_artifact(trained)
        tag = save(VERSIONED, artifact, trained.predict, like=reference.tag, family=FAMILY)
        beside = folder / tag.replace(":", "_")
        beside.mkdir()
        made.append(Model(tag, beside, reference.X, trained.predict, {**reference.facts, "params": vars(params)}))
    return tuple(made)


def forest(name: str, n_trees: int, seed: int, folder: Path, reference: Model) -> Model:
    """A `Forest` as a version."""
    folder.mkdir()
    X = reference.X
    drawn = Forest.draw(n_trees, X, seed)
    graph = drawn.to_onnx(X.shape[1])
    (folder / MODEL_FILE).write_bytes(graph)
    tag = save(name, graph, drawn.predict, like=reference.tag, family="forest")
    facts = {"trees": n_trees, "graph_bytes": len(graph)}
    return Model(tag, folder, X, drawn.predict, facts)


def _spread(X: Array, predict: Predict, seed: int) -> Array:
    """At most `N_ROWS` rows of X from all over the range of scores, shuffled: an answer to the wrong row is noticed."""
    order = np.argsort(predict(X), kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(N_ROWS, len(order))).astype(np.intp)]
    spread: Array = X[np.random.default_rng(seed).permutation(rows)]
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
