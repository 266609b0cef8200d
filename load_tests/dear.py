"""A dear model as a version in a store: a forest that takes milliseconds a row, so that few fill a core."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from causeway.contract import Array
from causeway.runtime import MODEL_FILE
from load_tests.forest import Forest

TREES = 300_000
SAMPLES = "samples.json"

Predict = Callable[[Array], NDArray[np.float64]]


def in_scratch(home: Path, like: str, seed: int, n_trees: int = TREES) -> str:
    """The tag of a dear model in a store of its own in `home`, which this process uses from now on.

    It has the contract of `like`, whose versions are copied from BENTOML_HOME. Raises `causeway.errors.VersionNotFound`
    where there is none. To be called before anything imports bentoml.
    """
    models = Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml", "models")
    name = like.partition(":")[0]
    if (models / name).exists():
        shutil.copytree(models / name, home / "models" / name)
    os.environ["BENTOML_HOME"] = str(home)
    from causeway import store

    samples = msgspec.json.decode(store.find(like).read(SAMPLES))
    X = np.array(samples["features"], dtype=np.float32)
    forest = Forest.draw(n_trees, X, seed)
    return save("dear", forest.to_onnx(X.shape[1]), forest.predict, like=like, family="forest")


def save(name: str, graph: bytes, predict: Predict, *, like: str, family: str) -> str:
    """The tag of `graph`, saved as the version `like` is but for the samples that are replayed with it."""
    from causeway import store  # BENTOML_HOME must have been set before anything imports bentoml

    pattern = store.find(like)
    files = {file: pattern.read(file) for file in pattern.metadata["files"]}
    samples = msgspec.json.decode(files[SAMPLES])
    replayed = np.array(samples["features"], dtype=np.float32)
    samples["predictions"] = predict(replayed)[:, np.newaxis].tolist()
    files |= {MODEL_FILE: graph, SAMPLES: msgspec.json.encode(samples)}
    return store.save(name, files, labels={"family": family}, metadata=pattern.metadata)
