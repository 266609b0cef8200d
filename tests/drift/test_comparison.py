"""Comparisons: what alarms and says why, and what only tells."""

from __future__ import annotations

import json

import numpy as np
import pytest

from causeway.contract import Array
from causeway.drift.comparison import Comparison, compare, skew
from causeway.drift.reference import MIN_ROWS, Reference
from tests.drift.tiny import HELD_OUT, NAMES, UNTIMED, drawn, scores


def compared(X: Array, p: Array | None = None) -> Comparison:
    return compare(UNTIMED, UNTIMED.count(X, scores(X) if p is None else p))


def with_amounts(n: int, change: slice, amount: float) -> Array:
    X = drawn(n, 0)
    X[change, 0] = amount
    return X


def test_the_reference_itself_has_not_drifted() -> None:
    comparison = compared(HELD_OUT)
    assert not comparison.is_drifted
    for column in comparison.columns:
        assert column.statistics["psi"].value == pytest.approx(0)
        assert column.mean == pytest.approx(column.reference_mean)
        assert column.shares == column.reference_shares
        assert column.unseen == 0


def test_a_larger_mean_is_found_in_the_column_that_has_it_by_psi_and_ks() -> None:
    X = drawn(1_000, 0)
    p = scores(X)
    X[:, 0] *= 1.5
    comparison = compared(X, p)
    assert comparison.drifted == ("amount",)
    amount = comparison.columns[0]
    assert {"psi", "ks"} <= set(amount.alarms)
    assert amount.statistics["ks"].is_exceeded
    assert (amount.mean or 0) > (amount.reference_mean or 9)


def test_a_few_values_turned_to_one_that_is_common_are_found_by_their_bin() -> None:
    X = with_amounts(1_000, slice(60), 1.0)
    alarms = compared(X, scores(drawn(1_000, 0))).columns[0].alarms
    assert "bin_deviance" in alarms
    assert "ks" not in alarms


def test_a_few_values_that_were_never_seen_are_found_and_told() -> None:
    amount = compared(with_amounts(1_000, slice(20), -1.0), scores(drawn(1_000, 0))).columns[0]
    assert {"psi", "bin_deviance"} <= set(amount.alarms)
    assert amount.unseen == 0.02


def test_a_column_that_was_always_the_same_alarms_when_it_is_not() -> None:
    X = drawn(1_000, 0)
    X[:20, 2] = 0
    assert compared(X).drifted == ("always",)


def test_chi_squared_is_for_few_valued_columns_and_says_its_degrees_of_freedom() -> None:
    columns = {column.name: column for column in compared(drawn(1_000, 0)).columns}
    assert "chi_squared" not in columns["amount"].statistics
    assert columns["night"].statistics["chi_squared"].degrees_of_freedom == 1


def test_few_rows_never_alarm_by_a_statistic() -> None:
    X = with_amounts(MIN_ROWS - 1, slice(None), 1e6)
    comparison = compared(X)
    assert not comparison.is_enough
    assert not comparison.is_drifted
    assert comparison.columns[0].statistics["ks"].value == pytest.approx(1)
    assert comparison.columns[0].statistics["ks"].threshold is None
    assert comparison.columns[0].unseen == 1


@pytest.mark.parametrize("why", ["missing", "out_of_range"])
def test_refused_rows_alarm_above_one_percent_and_not_below(why: str) -> None:
    X = drawn(1_000, 0)
    window = UNTIMED.count(X, scores(X))
    for n, is_drifted in ((10, False), (11, True)):
        refused = UNTIMED.refused(**{"missing": {}, "out_of_range": {}} | {why: {"night": n}})
        comparison = compare(UNTIMED, window + refused)
        assert comparison.drifted == (("night",) if is_drifted else ())
        assert comparison.columns[1].alarms == ((why,) if is_drifted else ())
        assert getattr(comparison.columns[1], why) == pytest.approx(n / (1_000 + n))


def test_scores_that_are_no_numbers_alarm_as_missing() -> None:
    X = drawn(1_000, 0)
    p = scores(X)
    p[:20] = np.nan
    score = compared(X, p).columns[-1]
    assert score.alarms == ("missing",)
    assert score.missing == 0.02


def test_a_window_in_which_everything_was_refused_alarms_and_has_no_statistics() -> None:
    comparison = compare(UNTIMED, UNTIMED.refused({"amount": 400}, {}))
    assert comparison.drifted == ("amount",)
    amount = comparison.columns[0]
    assert amount.missing == 1
    assert amount.mean is None
    assert amount.statistics["psi"].value is None
    assert not amount.statistics["psi"].is_exceeded
    assert set(amount.shares) == {0.0}
    json.dumps(comparison.to_dict(), allow_nan=False)


def test_a_reference_without_thresholds_measures_and_never_alarms() -> None:
    X = with_amounts(1_000, slice(None), 5.0)
    saved = json.loads(UNTIMED.to_json())
    before = {
        column["name"]: {key: column[key] for key in ("edges", "counts", "mean", "standard_deviation")}
        | {"minimum": column["minimum"], "maximum": column["maximum"], "rows": 16_000}
        for column in saved["columns"]
    }
    reference = Reference.from_json(json.dumps(before).encode())
    comparison = compare(reference, reference.count(X, scores(X)))
    assert comparison.rate is None
    assert not comparison.is_drifted
    assert (comparison.columns[0].statistics["ks"].value or 0) > 0.5
    assert skew(reference, reference.count(X, scores(X))).columns == ()


def test_skew_is_measured_against_the_training_rows_without_the_score_and_never_alarms() -> None:
    X = with_amounts(1_000, slice(None), 5.0)
    comparison = skew(UNTIMED, UNTIMED.count(X, scores(X)))
    assert [column.name for column in comparison.columns] == list(NAMES[:-1])
    amount = comparison.columns[0]
    assert (amount.statistics["ks"].value or 0) > 0.5
    assert amount.reference_shares != compared(X).columns[0].reference_shares
    assert not comparison.is_drifted
    assert comparison.rate is None


def test_bars_are_on_one_scale_with_a_blank_for_an_empty_bin() -> None:
    X = with_amounts(1_000, slice(None), 1e6)
    then, now = compared(X).columns[0].bars()
    assert len(then) == len(now) == len(UNTIMED.columns[0].counts)
    assert now == " " * (len(now) - 1) + "█"
    assert set(then[1:-1]) == {"▁"}
    assert then[0] == then[-1] == " "


def test_a_comparison_becomes_json() -> None:
    told = json.loads(json.dumps(compared(drawn(1_000, 0)).to_dict(), allow_nan=False))
    assert told["rows"] == 1_000
    assert told["is_enough"] is True
    assert told["false_alarm_rate"] == UNTIMED.rate
    assert [column["name"] for column in told["columns"]] == list(NAMES)
    assert told["columns"][0]["statistics"]["psi"].keys() == {"value", "threshold", "is_exceeded"}
