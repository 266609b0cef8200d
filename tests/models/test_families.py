"""What every family in models/ must do; a new file there is found and held to it."""

from __future__ import annotations

import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import models
from causeway.contract import Contract
from causeway.errors import UnknownFamily
from causeway.runtime import MODEL_FILE, Runtime, open_runtime
from causeway.training import Dataset, Trained
from causeway.training.dataset import split
from models import transactions
from models.simulator import Simulation, simulate
from models.windows import add_features

FAMILIES = models.families()


@cache
def small_data() -> Dataset:
    """Transactions of a small world, enough to learn from."""
    simulation = Simulation(n_customers=600, n_terminals=1000, n_days=50)
    return transactions.from_table(add_features(simulate(simulation, 1)), transactions.LABEL, "a small world")


@cache
def trained(name: str) -> tuple[models.Family, Dataset, Trained]:
    family = models.family(name)
    parts = split(small_data())
    return family, parts.test, family.train(parts.train, family.Params(), 0)


def runtime(family: models.Family, model: Trained, folder: Path) -> Runtime:
    (folder / MODEL_FILE).write_bytes(family.to_artifact(model))
    return open_runtime(folder)


def test_the_reference_family_is_found_and_helpers_are_not() -> None:
    assert "gradient_boosting" in FAMILIES
    assert not {"transactions", "simulator", "windows"} & set(FAMILIES)


@pytest.mark.parametrize(("name", "words"), [("nosuch", "No model family 'nosuch'"), ("windows", "lacks NAME")])
def test_what_is_no_family_is_refused_with_those_that_are(name: str, words: str) -> None:
    with pytest.raises(UnknownFamily, match=words) as refused:
        models.family(name)
    assert refused.value.known == FAMILIES


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
    second = family.train(split(small_data()).train, family.Params(), 0)
    np.testing.assert_array_equal(first.predict(test.X), second.predict(test.X))
    assert family.to_artifact(first) == family.to_artifact(second)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_exported_model_predicts_what_the_trained_one_does(name: str, tmp_path: Path) -> None:
    family, test, model = trained(name)
    exported = runtime(family, model, tmp_path).run(test.X)
    assert exported.shape == (len(test), family.CONTRACT.output.width)
    np.testing.assert_allclose(exported[:, 0], model.predict(test.X), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_row_gets_the_same_bits_alone_and_in_any_batch(name: str, tmp_path: Path) -> None:
    family, test, model = trained(name)
    engine = runtime(family, model, tmp_path)
    together = engine.run(test.X[:300])
    for size in (1, 7, 64):
        parts = [engine.run(test.X[start : start + size]) for start in range(0, 300, size)]
        np.testing.assert_array_equal(np.concatenate(parts)[:300], together[: sum(map(len, parts))])


@pytest.mark.parametrize("name", FAMILIES)
def test_predictions_keep_the_range_of_the_contract_even_at_its_corners(name: str, tmp_path: Path) -> None:
    family, _, model = trained(name)
    low = [feature.minimum for feature in family.CONTRACT.features]
    high = [feature.maximum for feature in family.CONTRACT.features]
    corners = family.CONTRACT.from_features([low, high])
    predictions = runtime(family, model, tmp_path).run(corners)
    assert ((predictions >= family.CONTRACT.output.minimum) & (predictions <= family.CONTRACT.output.maximum)).all()
