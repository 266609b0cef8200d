"""What every family in models/ must do; a new file there is found and held to it."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import models
from causeway import networks
from causeway.contract import Contract
from causeway.errors import UnknownFamily
from causeway.runtime import MODEL_FILE, Runtime, open_runtime
from causeway.training import Dataset, Trained
from causeway.training.dataset import split
from models import distil, transactions
from models.simulator import Simulation, simulate
from models.windows import add_features
from tests.conftest import ROOT

FAMILIES = models.families()


@cache
def small_data() -> Dataset:
    """Transactions of a small world, enough to learn from."""
    simulation = Simulation(n_customers=600, n_terminals=1000, n_days=50)
    return transactions.from_table(add_features(simulate(simulation, 1)), transactions.LABEL, "a small world")


@cache
def to_train_on(family: models.Family) -> Dataset:
    """The small world's training rows; with a teacher's scores for a family that needs them."""
    train = split(small_data()).train
    if not models.needs_teacher(family):
        return train
    return dataclasses.replace(train, teacher_scores=trained("gradient_boosting")[2].predict(train.X))


def fit(family: models.Family) -> Trained:
    """The family's model with its own parameters, except that what trains in epochs gets few."""
    fields = {field.name for field in dataclasses.fields(family.Params)}
    few = {"max_epochs": 2} if "max_epochs" in fields else {}
    return family.train(to_train_on(family), family.Params(**few), 0)


@cache
def trained(name: str) -> tuple[models.Family, Dataset, Trained]:
    family = models.family(name)
    return family, split(small_data()).test, fit(family)


def runtime(family: models.Family, model: Trained, folder: Path) -> Runtime:
    (folder / MODEL_FILE).write_bytes(family.to_artifact(model))
    return open_runtime(folder)


def test_the_reference_family_is_found_and_helpers_are_not() -> None:
    assert "gradient_boosting" in FAMILIES
    assert ({"transformer", "mlp", "distil"} <= set(FAMILIES)) == (find_spec("torch") is not None)
    assert not {"transactions", "simulator", "windows"} & set(FAMILIES)


@pytest.mark.parametrize(("name", "words"), [("nosuch", "No model family 'nosuch'"), ("windows", "lacks NAME")])
def test_what_is_no_family_is_refused_with_those_that_are(name: str, words: str) -> None:
    with pytest.raises(UnknownFamily, match=words) as refused:
        models.family(name)
    assert refused.value.known == FAMILIES


def test_a_family_that_needs_torch_is_refused_without_it_in_words_that_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UnknownFamily, match="'mlp' without torch, which it is made of; run `make setup") as refused:
        models.family("mlp")
    assert refused.value.known == ["gradient_boosting"]


def test_finding_the_families_takes_no_torch() -> None:
    code = "import sys, models; models.families(); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_distil_is_told_that_it_has_no_teacher() -> None:
    with pytest.raises(ValueError, match=r"set Dataset\.teacher_scores"):
        distil.train(small_data(), distil.Params(), 0)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_has_the_surface(name: str) -> None:
    family = models.family(name)
    assert family.NAME.lower() == family.NAME
    assert isinstance(family.CONTRACT, Contract)
    assert family.Params() == family.Params()
    with pytest.raises(dataclasses.FrozenInstanceError):
        family.Params().max_iter = 1


@pytest.mark.parametrize("name", FAMILIES)
def test_one_seed_gives_one_model_to_the_last_bit(name: str) -> None:
    family, test, first = trained(name)
    second = fit(family)
    np.testing.assert_array_equal(first.predict(test.X), second.predict(test.X))
    assert family.to_artifact(first) == family.to_artifact(second)
    assert models.to_files(family, first) == models.to_files(family, second)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_exported_model_predicts_what_the_trained_one_does(name: str, tmp_path: Path) -> None:
    family, test, model = trained(name)
    exported = runtime(family, model, tmp_path).run(test.X)
    assert exported.shape == (len(test), family.CONTRACT.output.width)
    np.testing.assert_allclose(exported[:, 0], model.predict(test.X), rtol=0, atol=family.CONTRACT.output.tolerance)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_gets_the_same_prediction_alone_and_in_any_batch(name: str, tmp_path: Path) -> None:
    family, test, model = trained(name)
    engine = runtime(family, model, tmp_path)
    together = engine.run(test.X[:300])
    tolerance = 0 if name == "gradient_boosting" else family.CONTRACT.output.tolerance
    for size in (1, 7, 64):
        parts = np.concatenate([engine.run(test.X[start : start + size]) for start in range(0, 300, size)])[:300]
        np.testing.assert_allclose(parts, together[: len(parts)], rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", [name for name in FAMILIES if hasattr(models.family(name), "to_files")])
def test_the_files_beside_the_artifact_hold_the_same_network(name: str, tmp_path: Path) -> None:
    import torch

    family, test, model = trained(name)
    for file, content in models.to_files(family, model).items():
        (tmp_path / file).write_bytes(content)
    _, network = networks.load(tmp_path)
    with torch.inference_mode():
        predictions = network(torch.from_numpy(test.X[:300])).numpy()
    np.testing.assert_allclose(
        predictions[:, 0], model.predict(test.X[:300]), rtol=0, atol=family.CONTRACT.output.tolerance
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_predictions_keep_the_range_of_the_contract_even_at_its_corners(name: str, tmp_path: Path) -> None:
    family, _, model = trained(name)
    low = [feature.minimum for feature in family.CONTRACT.features]
    high = [feature.maximum for feature in family.CONTRACT.features]
    corners = family.CONTRACT.from_features([low, high])
    predictions = runtime(family, model, tmp_path).run(corners)
    assert ((predictions >= family.CONTRACT.output.minimum) & (predictions <= family.CONTRACT.output.maximum)).all()
