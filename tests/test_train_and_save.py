"""The back door: what is saved, what is refused, and that nothing is left behind by a refusal."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from causeway import store
from causeway.version import ModelVersion
from models import transactions
from models.simulator import Simulation, simulate
from models.windows import add_features
from tests.conftest import ROOT, train


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """A user's own transactions."""
    return add_features(simulate(Simulation(n_customers=600, n_terminals=1000, n_days=50), 2))


@pytest.fixture(scope="module")
def csv(table: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own") / "own.csv"
    table.rename(columns={"TX_FRAUD": "IS_FRAUD"}).to_csv(path, index=False)
    return path


def tags() -> set[str]:
    import bentoml

    return {str(model.tag) for model in bentoml.models.list("fraud")}


@pytest.fixture
def saves_nothing(home: Path):  # type: ignore[no-untyped-def]
    """Fails the test if it leaves a version of the model in the store."""
    before = tags()
    yield
    assert tags() == before


def test_the_saved_version_holds_everything_that_design_asks_for(home: Path) -> None:
    stored = store.find("fraud:latest")
    evaluation = json.loads(stored.read("evaluation.json"))
    learnt = {"threshold", "calibration_map"}
    assert {"model", "baseline", "slices", "calibration", "exported"} | learnt == set(evaluation)
    for metric in ("auc_roc", "average_precision", "card_precision_at_100", "brier_score", "calibration_error"):
        assert 0 <= evaluation["model"][metric] <= 1
    assert {"amount over 220", "night", "weekend"} <= set(evaluation["slices"])
    reference = json.loads(stored.read("reference.json"))
    assert [column["name"] for column in reference["columns"]] == [*transactions.CONTRACT.names, "fraud_probability"]
    assert reference["rate"] == 0.01
    card = stored.read("MODEL_CARD.md").decode()
    for part in ("# Model card: fraud", "baseline (logistic regression)", "TERMINAL_ID_RISK_30DAY_WINDOW", "seed"):
        assert part in card
    assert stored.metadata["seed"] == 0
    assert stored.metadata["split"].startswith("by time: 7 days for training")


def test_a_second_call_for_what_is_missing_trains_nothing(home: Path) -> None:
    before = tags()
    result = train(home, "gradient_boosting", "--if-missing")
    assert result.returncode == 0
    assert "is in the store already" in result.stderr
    assert tags() == before


@pytest.fixture
def damaged(home: Path) -> Iterator[store.StoredVersion]:
    """A newest version that must not serve; removed afterwards."""
    stored = store.find("fraud:latest")
    files = {name: stored.read(name) for name in stored.metadata["files"]}
    newer = store.find(store.save("fraud", files, labels={}, metadata={}))
    yield newer
    shutil.rmtree(newer.path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (
            "model.onnx",
            "x",
            "model.onnx is not what was saved (SHA-256 differs). Restore it, or remove its folder",
        ),
        ("model.yaml", "{", "BentoML cannot read it: while parsing a flow node expected the node content"),
        ("model.yaml", None, "BentoML cannot read it: Failed to load bento model because it does not contain"),
    ],
)
def test_a_damaged_version_stops_what_would_train_if_there_were_none(
    home: Path, damaged: store.StoredVersion, file: str, content: str | None, words: str
) -> None:
    (damaged.path / file).unlink()
    if content is not None:
        (damaged.path / file).write_text(content)
    result = train(home, "gradient_boosting", "--if-missing")
    assert result.returncode == 1
    assert words in result.stderr
    assert "Training" not in result.stderr
    assert "Traceback" not in result.stderr


def test_a_first_run_says_what_it_does_and_writes_down_what_it_saved(checkout: Path, tmp_path: Path) -> None:
    family = BROKEN.format(maximum="1.0", artifact="sklearn_to_onnx(trained.model, 1)")
    (checkout / "models" / "broken.py").write_text(family)
    tag_file = tmp_path / "tag"
    for first_line in ("The model store has no version of broken yet", "is in the store already"):
        result = train(tmp_path, "broken", "--if-missing", "--tag-file", str(tag_file), folder=checkout)
        assert result.returncode == 0, result.stderr
        assert first_line in result.stderr.splitlines()[0]
        name, version = tag_file.read_text().strip().split(":")
        assert (tmp_path / "models" / name / version).is_dir()


def test_training_on_a_csv_twice_gives_the_same_model_to_the_last_bit(csv: Path, tmp_path: Path) -> None:
    digests = set()
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        arguments = ["--data", str(csv), "--label", "IS_FRAUD", "--seed", "3", "--set", "max_iter=50"]
        result = train(tmp_path / run, "gradient_boosting", *arguments)
        assert result.returncode == 0, result.stderr
        assert "| **model**" in result.stdout
        (model,) = (tmp_path / run / "models" / "fraud").glob("*/model.onnx")
        digests.add(model.read_bytes())
    assert len(digests) == 1


@pytest.mark.usefixtures("saves_nothing")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nosuchfamily"], "No model family 'nosuchfamily'; there are: "),
        (["gradient_boosting", "--set", "depth=3"], "--set depth=3: no such hyper-parameter; there are: max_iter"),
        (["gradient_boosting", "--data", "nosuch.csv", "--label", "y"], "There is no file nosuch.csv"),
        (["gradient_boosting", "--data", "OWN", "--label", "TX_FRAUD"], "lacks 1 column: TX_FRAUD"),
        (
            ["gradient_boosting", "--data", "OWN", "--label", "TX_DURING_NIGHT"],
            "TX_DURING_NIGHT is an input",
        ),
        (
            ["gradient_boosting", "--data", "OWN", "--label", "IS_FRAUD", "--delay-days", "60"],
            "The table spans 50",
        ),
        (["gradient_boosting", "--data", "OWN", "--label", "TERMINAL_ID"], "Label TERMINAL_ID: "),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_fitted(
    home: Path, csv: Path, arguments: list[str], words: str
) -> None:
    result = train(home, *(str(csv) if argument == "OWN" else argument for argument in arguments))
    assert result.returncode == 1
    assert f"Refused. {words}" in result.stderr.replace("Refused. own.csv ", "Refused. ")
    assert "Training" not in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture(scope="module")
def taught(csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a teacher, and a small network that learnt from it."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("taught")
    data = ["--data", str(csv), "--label", "IS_FRAUD"]
    for arguments in (
        ["gradient_boosting", *data, "--set", "max_iter=50", "--tag-file", str(folder / "teacher")],
        ["distil", *data, "--teacher", "fraud:latest", "--set", "max_epochs=8", "--tag-file", str(folder / "student")],
    ):
        result = train(folder, *arguments)
        assert result.returncode == 0, result.stderr
        assert "Warning" not in result.stderr
    return folder


def test_a_network_that_learnt_from_a_teacher_says_so_and_has_its_weights_beside_the_graph(taught: Path) -> None:
    teacher, student = ((taught / name).read_text().strip() for name in ("teacher", "student"))
    folder = taught / "models" / student.replace(":", "/")
    metadata = yaml.safe_load((folder / "model.yaml").read_text())["metadata"]
    assert metadata["teacher"] == teacher
    assert (metadata["delay_days"], metadata["test_days"]) == (7, 7)
    assert {"model.onnx", "network.json", "weights.safetensors"} <= set(metadata["files"])
    assert f"| {teacher} " in (folder / "MODEL_CARD.md").read_text()
    assert metadata["versions"]["torch"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--teacher", "fraud:nosuch"], "The model store has no version fraud:nosuch"),
        (["--teacher", "TEACHER", "--test-days", "5"], "rows that would be for testing now. It was split by time: "),
    ],
)
def test_a_teacher_that_cannot_teach_is_refused(taught: Path, csv: Path, arguments: list[str], words: str) -> None:
    teacher = (taught / "teacher").read_text().strip()
    given = [teacher if argument == "TEACHER" else argument for argument in arguments]
    result = train(taught, "distil", "--data", str(csv), "--label", "IS_FRAUD", *given)
    assert result.returncode == 1
    assert words in result.stderr
    assert "Training" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["distil"], "distil learns from another model's scores; name its tag with --teacher"),
        (["mlp", "--teacher", "fraud:latest"], "mlp learns from no teacher; leave --teacher out"),
    ],
)
def test_a_teacher_is_for_families_that_learn_from_one(tmp_path: Path, arguments: list[str], words: str) -> None:
    pytest.importorskip("torch")
    result = train(tmp_path, *arguments)
    assert result.returncode == 2
    assert words in result.stderr


@pytest.mark.usefixtures("saves_nothing")
def test_a_model_that_the_baseline_beats_is_not_saved(home: Path, csv: Path) -> None:
    weak = ["--set", "max_iter=1", "--set", "max_leaf_nodes=2"]
    result = train(home, "gradient_boosting", "--data", str(csv), "--label", "IS_FRAUD", *weak)
    assert result.returncode == 1
    assert "Refused. The model is not saved: the baseline beats it" in result.stderr


@pytest.mark.parametrize("arguments", [["--label", "y"], ["--data", "t.csv"], ["--seed", "-1"], ["--test-days", "0"]])
def test_arguments_that_make_no_sense_are_usage_errors(home: Path, arguments: list[str]) -> None:
    result = train(home, "gradient_boosting", *arguments)
    assert result.returncode == 2
    assert "usage:" in result.stderr


def test_the_published_transactions_are_predicted_better_than_in_the_book(published: Path, tmp_path: Path) -> None:
    result = train(tmp_path, "gradient_boosting", "--data", str(published), "--label", "TX_FRAUD")
    assert result.returncode == 0, result.stderr
    (evaluation,) = (tmp_path / "models" / "fraud").glob("*/evaluation.json")
    quality = json.loads(evaluation.read_text())
    assert quality["model"]["rows"] == 58_264
    assert quality["model"]["auc_roc"] >= 0.88
    assert quality["model"]["average_precision"] >= 0.65
    assert quality["baseline"]["auc_roc"] == pytest.approx(0.871, abs=0.002)
    assert quality["baseline"]["average_precision"] == pytest.approx(0.606, abs=0.002)
    assert quality["exported"]["parity"] <= 1e-5


def test_the_samples_in_the_store_are_predictions_of_the_trained_model(home: Path) -> None:
    version = ModelVersion.load(store.find("fraud:latest"))
    samples = json.loads(store.find("fraud:latest").read("samples.json"))
    X = version.contract.from_features(samples["features"])
    np.testing.assert_allclose(version.predict(X), samples["predictions"], rtol=0, atol=1e-5)
    scores = np.array(samples["predictions"])[:, 0]
    assert scores.min() < 0.01
    assert scores.max() > 0.5


BROKEN = """
from dataclasses import dataclass
import numpy as np
from causeway.contract import Contract, Feature, Output
from causeway.training import Dataset, Trained, sklearn_to_onnx
from sklearn.linear_model import LogisticRegression

NAME = "broken"
CONTRACT = Contract((Feature("x", maximum=0.1),), Output("p", maximum={maximum}))

@dataclass(frozen=True)
class Params:
    C: float = 1.0

def default_data(seed):
    x = np.random.default_rng(seed).uniform(-1, 0.1, 600).astype(np.float32)
    x[:5] = 0.1
    return Dataset(CONTRACT, x[:, np.newaxis], (x > -0.3).astype(np.int8), "by hand")

def train(data, params, seed):
    return Trained(LogisticRegression(C=params.C, max_iter=1000).fit(data.X, data.y))

def to_artifact(trained):
    return {artifact}
"""


@pytest.mark.parametrize(
    ("maximum", "artifact", "returncode", "words"),
    [
        ("1.0", "sklearn_to_onnx(trained.model, 1)", 0, "Saved broken:"),
        ("0.5", "sklearn_to_onnx(trained.model, 1)", 1, "outside the contract's 0 to 0.5"),
        ("1.0", "b'nonsense'", 1, "models/broken.py failed to export a model that runs"),
        ("1.0", "None", 1, "models/broken.py failed to export a model that runs: TypeError"),
        ("1.0", "sklearn_to_onnx(trained.model, 2)", 1, "failed to export a model that runs"),
        ("1.0, width=2", "b''", 1, "output width 1"),
    ],
)
def test_a_family_that_does_not_keep_its_contract_saves_nothing(
    checkout: Path, tmp_path: Path, maximum: str, artifact: str, returncode: int, words: str
) -> None:
    (checkout / "models" / "broken.py").write_text(BROKEN.format(maximum=maximum, artifact=artifact))
    result = train(tmp_path, "broken", folder=checkout)
    assert result.returncode == returncode, result.stderr
    assert words in result.stderr
    assert len(list((tmp_path / "models").glob("broken/*/model.yaml"))) == 1 - returncode


def test_ctrl_c_ends_training_with_one_line_and_nothing_saved(checkout: Path, tmp_path: Path) -> None:
    family = BROKEN.format(maximum="1.0", artifact="__import__('signal').raise_signal(2)")
    (checkout / "models" / "broken.py").write_text(family)
    result = train(tmp_path, "broken", folder=checkout)
    assert result.returncode == 130
    assert result.stderr.splitlines()[-1] == "Interrupted; nothing was saved"
    assert "Traceback" not in result.stderr
    assert not list((tmp_path / "models").glob("broken/*"))


@pytest.mark.parametrize("name", ["'My model'", "'Broken'", "''", "'x' * 64", "None"])
def test_a_name_that_cannot_be_saved_is_refused_before_anything_is_fitted(
    checkout: Path, tmp_path: Path, name: str
) -> None:
    (checkout / "models" / "broken.py").write_text(
        BROKEN.replace('"broken"', name).format(maximum="1.0", artifact="b''")
    )
    result = train(tmp_path, "broken", folder=checkout)
    assert result.returncode == 1
    assert "models/broken.py has NAME = " in result.stderr
    assert "Training" not in result.stderr


def test_a_file_that_cannot_be_imported_is_told_by_name_and_stands_in_nobody_s_way(checkout: Path, home: Path) -> None:
    (checkout / "models" / "broken.py").write_text("import nosuchpackage")
    asked = train(home, "broken", folder=checkout)
    assert "models/broken.py cannot be imported: No module named 'nosuchpackage'" in asked.stderr
    other = train(home, "nosuch", folder=checkout)
    assert "No model family 'nosuch'; there are: " in other.stderr
    assert "broken" not in other.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what training needs, to add a family to."""
    for name in ("causeway", "models", "train_and_save.py"):
        source, target = ROOT / name, tmp_path / "checkout" / name
        target.parent.mkdir(exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy2(source, target)
    return tmp_path / "checkout"
