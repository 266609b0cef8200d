"""The file of a load test."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from load_tests.objective import Objective
from load_tests.result import Check, Fit, Result, Sample
from load_tests.verdict import judge
from tests.load_tests.stages import OBJECTIVE, ramp, result, stage

NUMBERS = st.floats(0, 1e9)
FITS = st.builds(
    Fit,
    error=NUMBERS,
    parameters=st.dictionaries(st.text(), NUMBERS),
    curve=st.lists(st.tuples(NUMBERS, NUMBERS)),
    predicted_rate=st.none() | NUMBERS,
    of=st.sampled_from(["p99_ms", "throughput"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    stages=st.lists(st.builds(stage, st.floats(1, 1e4), p99_ms=st.none() | st.floats(0.1, 1e4)), max_size=3),
    fits=st.lists(FITS, max_size=2),
    objective=st.builds(Objective, NUMBERS, st.floats(0, 1)),
    name=st.text(),
)
def test_what_is_written_is_what_is_read(
    tmp_path: Path, stages: list, fits: list[Fit], objective: Objective, name: str
) -> None:
    written = result(name, [judge(stages, OBJECTIVE)], fits=fits, objective=objective)
    written.save(tmp_path / "result.json")
    assert Result.load(tmp_path / "result.json") == written


def test_a_soak_is_written_with_its_samples_and_checks(tmp_path: Path) -> None:
    sample = Sample(1.0, 100.0, 100, 0, 0, 5.0, 20.0, 120.0, 30, 4, 0.3)
    unseen = Sample(2.0, 100.0, 0, 0, 100, None, None, None, None, None, None)
    soak = result(samples=[sample, unseen], checks=[Check("memory", True, "grew by 0.1 MB an hour")], shape="soak")
    soak.save(tmp_path / "soak.json")
    assert Result.load(tmp_path / "soak.json") == soak


def test_the_file_is_for_people_as_well(tmp_path: Path) -> None:
    result().save(tmp_path / "result.json")
    text = (tmp_path / "result.json").read_text()
    assert text.startswith('{\n "name": "default",\n')
    assert text.endswith("}\n")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"name": 1}', "no JSON"])
def test_a_file_that_is_no_result_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    with pytest.raises(msgspec.DecodeError):
        Result.load(path)


def test_the_same_file_twice_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        result(repeats=[judge(ramp(), OBJECTIVE)]).save(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
