"""The study of devices in small, on a CPU, and what README says of a result with a GPU and of one without."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from causeway.training.dataset import split
from load_tests.studies import devices
from load_tests.studies.device_engines import BY_HAND, BY_HAND_WITH_COPIES, in_turns, opened
from load_tests.studies.device_report import CPU, GPU, NO_GPU, picture
from load_tests.studies.devices import Plan, markdown
from models import transactions
from models.simulator import Simulation, simulate
from models.windows import add_features
from tests import tiny

SMALL = Plan(
    families=("mlp",),
    sizes=(1, 16),
    rounds=2,
    turn_s=0.001,
    served=("mlp",),
    rates={4: (20,)},
    stage_s=0.5,
    warm_up_s=0.2,
)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    table = add_features(simulate(Simulation(n_customers=600, n_terminals=1000, n_days=50), 1))
    data = transactions.from_table(table, transactions.LABEL, "a small world")
    measured = devices.measure(SMALL, split(data), tmp_path_factory.mktemp("devices"))
    kept: dict[str, Any] = json.loads(json.dumps(measured, allow_nan=False))
    return kept


def on_a_gpu(result: dict[str, Any]) -> dict[str, Any]:
    """The same, as if there had been one on which everything takes a tenth of the time."""
    made_up = deepcopy(result)
    made_up["devices"][GPU] = {"name": "a GPU", "driver": "1.2.3"}
    (on_cpu,) = made_up["engines"]["mlp"].values()
    for name, times in ((f"torch {GPU} fp32", 9), (BY_HAND, 10), (BY_HAND_WITH_COPIES, 9)):
        made_up["engines"]["mlp"][name] = {
            size: {**each, "rows_per_s": [times * rate for rate in each["rows_per_s"]]} for size, each in on_cpu.items()
        }
    made_up["left_out"] = {"onnxruntime CUDAExecutionProvider cuda:0: it has none": ["mlp"]}
    return made_up


def test_contestants_take_turns_and_each_begins_a_round() -> None:
    called: list[str] = []
    contestants = {name: lambda X, name=name: called.append(name) for name in "abc"}
    found = in_turns(contestants, np.zeros((5, 2), np.float32), 8, rounds=3, turn_s=0.0)
    turns = [name for name, before in zip(called, ["", *called], strict=False) if name != before]
    assert "".join(turns) == "abc" + "bca" + "cab"
    assert {name: len(figures["rows_per_s"]) for name, figures in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert all(figures["calls"] == called.count(name) - 3 for name, figures in found.items())  # the first ones


def test_an_engine_that_cannot_be_opened_is_left_out_with_the_reason() -> None:
    runtimes, left_out = opened(Path(tiny.saved(model_onnx=b"no graph").path), CPU)
    assert not runtimes
    assert list(left_out) == ["onnxruntime CPUExecutionProvider"]


def test_the_study_in_small_has_every_figure(result: dict[str, Any]) -> None:
    assert result["engines"]["mlp"].keys() >= {"onnxruntime CPUExecutionProvider"}
    for by_size in result["engines"]["mlp"].values():
        assert by_size.keys() == {"1", "16"}
        assert all(len(each["rows_per_s"]) == 2 and each["p99_ms"] > 0 for each in by_size.values())
    run = result["served"][0]
    assert (run["family"], run["device"], run["rows"]) == ("mlp", CPU, 4)
    (stage,) = run["stages"]
    assert stage["offered_rows_per_s"] == 80
    assert stage["p99_ms"] > 0
    assert {"commit", "cpu", "at", "versions", "seed"} <= result.keys()


@pytest.mark.skipif(devices.gpu() is not None, reason="there is a GPU")
def test_without_a_gpu_the_result_and_readme_say_so(result: dict[str, Any]) -> None:
    assert result["devices"][GPU] == NO_GPU == "no CUDA device: not measured"
    text = markdown(result)
    assert NO_GPU in text
    assert "unproven" in text


def test_on_a_gpu_the_engine_is_told_beside_a_graph_replayed_by_hand(result: dict[str, Any]) -> None:
    text = markdown(on_a_gpu(result))
    assert "a GPU, driver 1.2.3" in text
    assert "`mlp` 0.90 / 0.90 (1.00 / 1.00)" in text
    assert "it has none (mlp)" in text
    assert "unproven" not in text
    assert picture(on_a_gpu(result)).startswith(b"\x89PNG")


def test_what_was_kept_has_all_families_and_is_what_readme_shows() -> None:
    kept = json.loads(devices.RESULT.read_text())
    assert list(kept["engines"]) == list(Plan().families)
    assert {(run["family"], run["rows"]) for run in kept["served"]} == {
        (family, rows) for family in Plan().served for rows in devices.RATES
    }
    assert "| transformer | onnxruntime CPUExecutionProvider |" in markdown(kept)
