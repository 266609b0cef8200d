"""The verdict is a sentence that the figures beside it bear out."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causeway.experiments.measure import ALPHA, Measure, measure, sample_ratio
from causeway.experiments.outcomes import NONE, Outcomes
from causeway.experiments.report import Report, report
from causeway.experiments.verdict import verdict
from tests.experiments.logged import PERIOD, START, answered, labelled, log, simulate, write

FEW = measure(NONE, 0.5)


def observed(y: Sequence[float], is_variant: Sequence[bool]) -> Outcomes:
    counts = sum(not each for each in is_variant), sum(is_variant)
    return Outcomes(np.array(is_variant), np.array(y, float), counts, counts, (0.0, 0.0))


def alternating(champion: Sequence[float], variant: Sequence[float]) -> Measure:
    y = [value for pair in zip(champion, variant, strict=True) for value in pair]
    return measure(observed(y, [False, True] * len(champion)), 0.5)


def told(folder: Path, n: int, rates: tuple[float, float], share: float = 0.5) -> Report:
    with log(folder) as connection:
        simulate(connection, n, rates=rates, share=share)
        return report(connection, PERIOD)


def test_a_difference_is_told_with_its_interval(tmp_path: Path) -> None:
    found = told(tmp_path, 3_000, (0.2, 0.4))
    match = re.fullmatch(
        r"Challenger fraud:b beside champion fraud:a: more conversions, ([\d.]+) % against ([\d.]+) %, "
        r"by ([\d.]+) to ([\d.]+) points; a higher mean score, .*\.",
        found.verdict,
    )
    assert match is not None, found.verdict
    variant, champion, low, high = map(float, match.groups())
    assert low < 20 < high
    assert low < variant - champion < high
    assert found.since == START + 1
    assert found.scores.requests[0] + found.scores.requests[1] == 3_000


def test_nothing_is_told_of_two_that_are_alike(tmp_path: Path) -> None:
    found = told(tmp_path, 500, (0.2, 0.2))
    assert "too early to tell about conversions, which may differ by -" in found.verdict


def test_a_difference_that_would_be_small_is_called_none() -> None:
    alike = alternating([0.5, 0.51] * 4_000, [0.51, 0.5] * 4_000)
    assert "no difference in the mean score larger than 0.00" in verdict(PERIOD, alike, FEW)


def test_a_sample_ratio_that_is_off_is_all_that_is_told(tmp_path: Path) -> None:
    found = told(tmp_path, 2_000, (0.1, 0.6), share=0.4)
    assert re.fullmatch(
        r"Conclude nothing: the challenger fraud:b has \d\d\.\d\d % instead of 50\.00 % of the units, "
        r"which is not by chance\.",
        found.verdict,
    )


def test_labels_that_favour_one_variant_are_not_compared(tmp_path: Path) -> None:
    with log(tmp_path) as connection:
        answers = [answered(str(n), ("champion", "challenger")[n % 2], [0.5], START + n) for n in range(600)]
        write(connection, answers, [labelled(str(n), [0], START) for n in range(2, 600) if n % 2 or n % 6 == 0])
        found = report(connection, PERIOD)
    assert found.labels.ratio.is_off
    assert "nothing to conclude from labels, of which it has" in found.verdict


def test_before_there_is_anything_that_is_told(tmp_path: Path) -> None:
    with log(tmp_path) as connection:
        found = report(connection, PERIOD)
    assert found.since is None
    assert found.verdict.endswith("no labels of both yet; no scores of both yet.")


def test_later_answers_alone_count_where_that_is_asked(tmp_path: Path) -> None:
    with log(tmp_path) as connection:
        simulate(connection, 1_000, rates=(0.2, 0.2))
        assert report(connection, PERIOD, START + 2.5).scores.requests < report(connection, PERIOD).scores.requests
        assert report(connection, PERIOD, START - 100).since == START + 1


def test_scores_beyond_0_and_1_are_not_compared() -> None:
    found = alternating([0.0, 120.0], [30.0, 0.5])
    assert found.difference is None
    assert "scores are compared between 0 and 1 only" in verdict(PERIOD, found, FEW)


def test_a_report_is_json(tmp_path: Path) -> None:
    found = told(tmp_path, 300, (0.2, 0.2))
    plain = json.loads(msgspec.json.encode(found.to_dict()))
    assert plain["confidence"] == 1 - ALPHA / 2
    assert plain["labels"]["difference"]["value"] == found.labels.difference.value
    assert plain["scores"]["ratio"]["expected"] == 0.5


outcomes = st.lists(st.tuples(st.booleans(), st.floats(0, 1)), min_size=1, max_size=40)


@given(outcomes)
def test_a_verdict_and_its_interval_agree(drawn: list[tuple[bool, float]]) -> None:
    is_variant, y = zip(*drawn, strict=True)
    found = measure(observed(y, is_variant), 0.5)
    said = verdict(PERIOD, replace(found, ratio=sample_ratio((1, 1), 0.5)), FEW)
    if found.difference is None:
        assert "no scores of both yet" in said
    else:
        assert ("a higher mean score" in said) == (found.difference.low > 0)
        assert ("a lower mean score" in said) == (found.difference.high < 0)


@pytest.mark.parametrize(
    ("units", "is_off"), [((0, 0), False), ((500, 520), False), ((500, 700), True), ((40, 0), True)]
)
def test_a_sample_ratio_is_off_beyond_chance_alone(units: tuple[int, int], is_off: bool) -> None:
    assert sample_ratio(units, 0.5).is_off == is_off
