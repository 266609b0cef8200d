"""`causeway log`: what it prints and writes, and that its file is one to train on."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from sqlalchemy import insert

from causeway import store
from causeway.commands.log import log
from causeway.monitoring import database, place
from causeway.monitoring.database import labels, predictions
from causeway.operations import Operations
from causeway.settings import Settings
from causeway.training import Dataset
from models.simulator import Simulation, simulate
from models.transactions import CONTRACT
from models.windows import add_features
from tests import tiny
from tests.conftest import train
from tests.monitoring.test_database import PREDICTION

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, on a log of its own."""
    monkeypatch.setenv("CAUSEWAY_STATE_FILE", str(tmp_path / "state.json"))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(log, arguments, obj=Operations(Settings.from_env()))


def write(folder: Path, requests: Sequence[dict[str, Any]], came: Sequence[dict[str, Any]] = ()) -> None:
    """Puts requests and labels into the log in `folder`."""
    engine = database.connect(place.where(Settings(), folder).database_url)
    with engine.begin() as connection:
        connection.execute(insert(predictions), [{**PREDICTION, "time": time.time() - 60, **each} for each in requests])
        if came:
            connection.execute(insert(labels), came)
    engine.dispose()


@pytest.fixture
def few(tmp_path: Path) -> str:
    """The tag of a version that answered three requests, of which the second has labels."""
    tag = tiny.saved().tag
    rows = {"model_version": tag, "features": "[[0.1,1.0],[-4.5,0.0]]", "predictions": "[[0.25],[0.75]]"}
    write(
        tmp_path,
        [{**rows, "request_id": name} for name in ("a", 'b,"c"', "d")],
        [{"request_id": 'b,"c"', "labels": "[0.0,1.0]", "time": 0.0}],
    )
    return tag


def test_without_a_file_each_row_is_a_line_of_json(run: Run, few: str) -> None:
    result = run()
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(row["request_id"], row["row"]) for row in rows] == [
        (name, i) for name in ("a", 'b,"c"', "d") for i in (0, 1)
    ]
    assert {name: rows[3][name] for name in ("model_version", "a", "b", "p", "label")} == {
        "model_version": few,
        "a": -4.5,
        "b": 0.0,
        "p": 0.75,
        "label": 1.0,
    }
    assert rows[0]["label"] is None
    assert rows[0]["time"].endswith("Z")


@pytest.mark.parametrize(
    ("arguments", "n_rows"),
    [
        (["--limit", "3"], 3),
        (["--labelled"], 2),
        (["--since", "30s"], 0),
        (["--until", "30s"], 6),
        (["--until", "2m", "--since", "3m"], 0),
        (["--version", "tiny:latest"], 6),
        (["--version", "tiny:latest", "--since", "30s"], 0),
        (["--request-id", "d"], 2),
        (["--request-id", "d", "--since", "30s"], 0),
    ],
)
@pytest.mark.usefixtures("few")
def test_options_choose_the_rows(run: Run, arguments: list[str], n_rows: int) -> None:
    assert len(run(*arguments).stdout.splitlines()) == n_rows


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.usefixtures("few")
def test_a_file_holds_the_same_rows_and_takes_the_place_of_what_was_there(
    run: Run, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("causeway.monitoring.reading.ROWS_AT_ONCE", 4)  # several row groups
    file = tmp_path / f"log.{kind}"
    file.write_text("earlier")
    result = run(f"--{kind}", str(file))
    assert (result.exit_code, result.output) == (0, f"6 rows are in {file}\n")
    frame = pd.read_csv(file, parse_dates=["time"]) if kind == "csv" else pd.read_parquet(file)
    lines = [json.loads(line) for line in run().stdout.splitlines()]
    assert list(frame.columns) == list(lines[0])
    assert str(frame["time"].dt.tz) == "UTC"
    for name in ("request_id", "row", "a", "b", "p", "model_version"):
        assert frame[name].tolist() == pytest.approx([line[name] for line in lines])
    assert frame["label"].isna().tolist() == [True, True, False, False, True, True]
    assert {path.name for path in tmp_path.iterdir() if "log" in path.name} == {file.name}


def test_a_file_that_cannot_be_written_whole_leaves_the_earlier_one(
    run: Run, few: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("causeway.monitoring.reading.Reading._rows", fail)
    file = tmp_path / "log.csv"
    file.write_text("earlier")
    assert isinstance(run("--csv", str(file)).exception, ZeroDivisionError)
    assert file.read_text() == "earlier"
    assert not list(tmp_path.glob(".log*"))


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--csv", "a", "--parquet", "b"], "one of --parquet and --csv"),
        (["--since", "1h", "--until", "1h"], "--until must be"),
        (["--since", "yesterday"], "no duration"),
        (["--csv", "nosuch/log.csv"], "nosuch/log.csv cannot be written: No such file or directory"),
    ],
)
@pytest.mark.usefixtures("few")
def test_what_makes_no_sense_is_told_in_a_sentence(run: Run, arguments: list[str], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code != 0
    assert says in result.output + str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--version", "tiny:nosuch"], "The prediction log has nothing of tiny:nosuch"),
        (["--request-id", "nosuch"], "The prediction log has nothing of nosuch"),
        (["--version", "nosuch:latest"], "The model store has no version nosuch:latest"),
    ],
)
@pytest.mark.usefixtures("few")
def test_what_the_log_does_not_have_is_told(run: Run, arguments: list[str], says: str) -> None:
    assert says in str(run(*arguments).exception)


def test_a_version_that_the_store_does_not_have_any_more_is_in_the_log(run: Run, tmp_path: Path) -> None:
    write(tmp_path, [{"model_version": "gone:1"}])
    assert len(run("--version", "gone:1").stdout.splitlines()) == PREDICTION["n_rows"]


def test_a_request_of_long_ago_is_found_by_its_id(run: Run, tmp_path: Path) -> None:
    write(tmp_path, [{"request_id": "old", "time": time.time() - 9 * 86_400}])
    assert len(run("--request-id", "old").stdout.splitlines()) == PREDICTION["n_rows"]
    assert run().stdout == ""


def test_before_there_is_a_log_that_is_told_and_none_is_made(run: Run, tmp_path: Path) -> None:
    assert "there is no prediction log yet" in str(run().exception)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("few")
def test_without_pyarrow_parquet_is_refused_and_csv_is_written(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "use --csv" in str(run("--parquet", "file").exception)
    assert run("--csv", "file").output == "6 rows are in file\n"


def test_what_was_logged_and_labelled_trains_the_model_that_its_rows_would_have_trained(
    run: Run, home: Path, tmp_path: Path
) -> None:
    tag = store.versions("fraud")[-1].tag
    table = add_features(simulate(Simulation(n_customers=600, n_terminals=1000, n_days=50), 2)).sample(
        frac=1.0, random_state=0
    )
    table = table[[*CONTRACT.names, "TX_FRAUD"]]
    X, y = table[list(CONTRACT.names)].to_numpy(np.float32), table["TX_FRAUD"].to_numpy(float)
    chunks = [slice(start, start + 500) for start in range(0, len(X), 500)]
    answered = [
        {
            "request_id": f"{chunk.start}",
            "model_version": tag,
            "n_rows": len(X[chunk]),
            "features": json.dumps(X[chunk].astype(float).tolist()),
            "predictions": json.dumps([[0.5]] * len(X[chunk])),
        }
        for chunk in chunks
    ]
    came = [
        {"request_id": each["request_id"], "labels": json.dumps(y[chunk].tolist()), "time": 0.0}
        for each, chunk in zip(answered, chunks, strict=True)
    ]
    unlabelled = {**answered[0], "request_id": "nobody knows"}
    write(tmp_path, [unlabelled, *answered], came)
    file = tmp_path / "labelled.parquet"
    result = run("--labelled", "--parquet", str(file))
    assert result.output == f"{len(X)} rows are in {file}\n"
    result = train(tmp_path, "gradient_boosting", "--data", str(file), "--label", "label", "--set", "max_iter=50")
    assert result.returncode == 0, result.stderr
    expected = Dataset.from_table(CONTRACT, table, "TX_FRAUD", source="the same rows").fingerprint()
    assert expected in next((tmp_path / "models" / "fraud").glob("*/model.yaml")).read_text()
