"""`causeway optimise` on a perceptron of a user's own: what is saved, what is refused, and what is told."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result

import models
import train_and_save
from causeway import store
from causeway.cli import main
from causeway.contract import PRECISION_TOLERANCE
from causeway.optimise import measure
from causeway.optimise.kinds import KINDS
from causeway.quality.working import Working
from causeway.version import ModelVersion, Samples
from tests import tiny

FAMILY = """
from dataclasses import dataclass

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.neural_network import MLPClassifier

from causeway.contract import Contract, Feature, Output
from causeway.training import Dataset, Trained, sklearn_to_onnx

NAME = "{name}"
CONTRACT = Contract(tuple(Feature(name, minimum=-1, maximum=1) for name in "abcd"), Output("p"))


@dataclass(frozen=True)
class Params:
    pass


def default_data(seed):
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (1200, 4))
    y = rng.random(1200) < 1 / (1 + np.exp(-10 * X[:, 0] * X[:, 1]))
    return Dataset(CONTRACT, CONTRACT.from_array(X), y.astype(np.int8), "the sign of a product")


def train(data, params, seed):
    return Trained({model}.fit(data.X, data.y))


def to_artifact(trained):
    return sklearn_to_onnx(trained.model, CONTRACT.width)
"""

PERCEPTRON = "MLPClassifier((64, 64), learning_rate_init=0.01, early_stopping=True, random_state=seed)"
TREES = "HistGradientBoostingClassifier(max_iter=20)"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder whose files are families, too."""
    path = tmp_path_factory.mktemp("families")
    models.__path__.append(str(path))
    yield path
    models.__path__.remove(str(path))


def trained(folder: Path, name: str, model: str, *arguments: str) -> str:
    """The tag of a version of that family, saved by train_and_save.py."""
    (folder / f"{name}.py").write_text(FAMILY.format(name=name, model=model))
    tag_file = folder / f"{name}.tag"
    assert train_and_save.main([name, *arguments, "--tag-file", str(tag_file)]) == 0
    return tag_file.read_text().strip()


@pytest.fixture(scope="module")
def perceptron(folder: Path) -> str:
    return trained(folder, "perceptron", PERCEPTRON)


@pytest.fixture(scope="module", autouse=True)
def few_rounds() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "N_ROUNDS", 5)
        patch.setattr(measure, "BATCHES", (1, 8))
        yield


@pytest.fixture(scope="module")
def fp16(perceptron: str) -> dict[str, Any]:
    """What is told of a variant that was saved, beside its parent."""
    parent, variant = told(perceptron, "--only", "fp16")["variants"]
    assert (parent["name"], variant["name"], variant["reasons"]) == ("fp32", "fp16", [])
    return variant


def run(*arguments: str) -> Result:
    """`causeway optimise ...`."""
    return CliRunner().invoke(main, ["optimise", *arguments])


def told(*arguments: str) -> Any:
    """What it prints for programs."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def tags(name: str) -> set[str]:
    return {str(model.tag) for model in bentoml.models.list(name)}


def test_a_variant_that_passes_is_a_version_of_its_own(perceptron: str, fp16: dict[str, Any]) -> None:
    stored, of_parent = store.find(fp16["tag"]), store.find(perceptron)
    assert stored.labels == {**of_parent.labels, "variant": "fp16"}
    assert stored.metadata["parent"] == perceptron
    assert stored.metadata["data_sha256"] == of_parent.metadata["data_sha256"]
    assert stored.average_precision == pytest.approx(fp16["figures"]["quality"]["average_precision"])
    assert stored.metadata["optimised"]["difference"] == fp16["figures"]["difference"] > 0
    assert len(stored.read("model.onnx")) < 0.6 * len(of_parent.read("model.onnx"))
    version = ModelVersion.load(stored)
    assert version.contract.output.tolerance == PRECISION_TOLERANCE["fp16"]
    replayed, of_parent_replayed = (Samples(**json.loads(each.read("samples.json"))) for each in (stored, of_parent))
    assert replayed.features == of_parent_replayed.features
    assert replayed.predictions != of_parent_replayed.predictions
    np.testing.assert_allclose(replayed.predictions, of_parent_replayed.predictions, rtol=0, atol=5e-3)
    assert Working.from_json(stored.read("evaluation.json")) == Working.from_json(of_parent.read("evaluation.json"))


def test_the_card_of_a_variant_compares_it_with_its_parent_and_keeps_the_parent_s_card(
    perceptron: str, fp16: dict[str, Any]
) -> None:
    card = store.find(fp16["tag"]).read("MODEL_CARD.md").decode()
    assert card.startswith(f"# Model card: fp16 of {perceptron}\n")
    assert re.search(rf"\| +\| fp16 \| {perceptron} \|", card)
    assert re.search(r"\| AP \| \d\.\d{4} \| \d\.\d{4} \|", card)
    assert card.endswith(store.find(perceptron).read("MODEL_CARD.md").decode())


def test_all_variants_are_told_with_their_figures_and_what_became_of_them(perceptron: str, tmp_path: Path) -> None:
    before = tags("perceptron")
    picture = tmp_path / "variants.png"
    result = run(perceptron, "--dry-run", "--plot", str(picture))
    assert result.exit_code == 0, result.output
    for name in ("fp32", *(kind.name for kind in KINDS)):
        assert len(re.findall(rf"^{name} ", result.stdout, re.MULTILINE)) == 1 + len(measure.BATCHES)
    assert re.search("^fp16: passes; a dry run saves nothing$", result.stdout, re.MULTILINE)
    assert "Timing batches of 8\n" in result.stderr
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert tags("perceptron") == before


def test_of_trees_it_is_told_that_there_is_nothing_to_make(folder: Path) -> None:
    tag = trained(folder, "leaves", TREES)
    result = run(tag, "--only", "int8-static", "--only", "pruned-50")
    assert result.exit_code == 0, result.output
    for name in ("int8-static", "pruned-50"):
        assert f"{name}: refused: nothing in its graph multiplies with constant weights\n" in result.stdout
    assert tags("leaves") == {tag}


@pytest.fixture(scope="module")
def csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of such rows, with a column to split them by."""
    rng = np.random.default_rng(1)
    table = pd.DataFrame(rng.uniform(-1, 1, (1200, 4)).round(3), columns=list("abcd"))
    table["label"] = (table["a"] * table["b"] > 0).astype(int)
    table["seen"] = pd.date_range("2024-01-01", periods=len(table), freq="1h")
    path = tmp_path_factory.mktemp("own") / "own.csv"
    table.to_csv(path, index=False)
    return path


def test_the_rows_held_out_are_those_of_the_table_that_it_was_trained_on(folder: Path, csv: Path) -> None:
    given = ["--data", str(csv), "--label", "label", "--time", "seen"]
    tag = trained(folder, "table", PERCEPTRON, *given, "--delay-days", "1", "--test-days", "20")
    found = told(tag, *given, "--only", "compiled", "--dry-run")
    assert found["split"] == store.find(tag).metadata["split"]
    kept = store.find(tag).metadata["quality"]
    assert found["variants"][0]["figures"]["quality"]["average_precision"] == pytest.approx(kept["average_precision"])
    without_time = run(tag, *given[:4])
    assert without_time.exit_code == 1
    assert f"{tag} was trained on other rows (own.csv) than these (own.csv); give" in without_time.stderr


def test_a_variant_is_not_optimised_again(perceptron: str, fp16: dict[str, Any]) -> None:
    result = run(fp16["tag"])
    assert result.exit_code == 1
    assert f"{fp16['tag']} is a variant (fp16) of {perceptron}: optimise that one" in result.stderr


def test_a_version_that_says_nothing_of_its_training_is_refused() -> None:
    result = run(tiny.saved().tag)
    assert result.exit_code == 1
    assert "does not say how it was trained" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nosuch:latest"], 1, "nosuch:latest"),
        (["TAG", "--only", "int4"], 2, "'int4' is none of fp16, int8-dynamic"),
        (["TAG", "--data", "cells.csv"], 2, "--data and --label belong together"),
        (["TAG", "--time", "seen"], 2, "--time and --entity are columns of --data"),
        (["TAG", "--data", "nosuch.csv", "--label", "y"], 1, "There is no file nosuch.csv"),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_sentence(
    perceptron: str, arguments: list[str], code: int, words: str
) -> None:
    result = run(*(perceptron if argument == "TAG" else argument for argument in arguments))
    assert result.exit_code == code
    assert words in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize("lacking", ["models", "causeway.optimise.study", "causeway.optimise.plot"])
def test_where_something_cannot_be_imported_it_is_told_what_to_install(
    lacking: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, lacking, None)
    result = run("perceptron:latest", "--plot", "variants.png")
    assert result.exit_code == 1
    assert "optimise needs the clone and what `make setup` installs there, and matplotlib for --plot: " in result.stderr
    assert lacking in result.stderr
