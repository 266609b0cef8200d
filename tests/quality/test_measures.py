"""Figures are scikit-learn's, whatever the ties, and say nothing where they are undefined."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn import metrics

from causeway.quality.measures import (
    Labels,
    Quality,
    Scores,
    calibration_error,
    card_precision,
    measure,
    reliability,
    working_threshold,
)

Rows = tuple[Labels, Scores]


@st.composite
def rows(draw: Any) -> Rows:
    """Labels and scores, many of which are equal."""
    n = draw(st.integers(1, 60))
    y = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    scores = draw(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]) | st.floats(0, 1), min_size=n, max_size=n))
    return np.array(y, dtype=np.int8), np.array(scores)


@given(rows(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
def test_every_figure_is_scikit_learns(given_rows: Rows, threshold: float) -> None:
    y, scores = given_rows
    told, flagged = measure(y, scores, threshold), scores >= threshold
    assert told.brier_score == pytest.approx(metrics.brier_score_loss(y, scores, pos_label=1))
    assert told.log_loss == pytest.approx(metrics.log_loss(y, scores, labels=[0, 1]))
    if y.any():
        assert told.average_precision == pytest.approx(metrics.average_precision_score(y, scores))
        assert told.recall == pytest.approx(metrics.recall_score(y, flagged))
    if 0 < y.sum() < len(y):
        assert told.auc_roc == pytest.approx(metrics.roc_auc_score(y, scores))
    if flagged.any():
        assert told.precision == pytest.approx(metrics.precision_score(y, flagged))


@given(rows(), st.sampled_from([0.0, 0.5, 1.0]))
def test_what_is_undefined_is_none_and_everything_else_lies_in_its_interval(given_rows: Rows, threshold: float) -> None:
    y, scores = given_rows
    told = measure(y, scores, threshold)
    assert (told.average_precision is None) == (told.recall is None) == (not y.any())
    assert (told.auc_roc is None) == (y.all() or not y.any())
    assert (told.precision is None) == (not (scores >= threshold).any())
    for name, (low, high) in told.intervals.items():
        figure = told.positives / told.rows if name == "positives" else getattr(told, name)
        assert 0 <= low <= figure + 1e-9
        assert figure - 1e-9 <= high <= 1


def test_no_rows_have_no_quality() -> None:
    none = np.array([])
    told = measure(none.astype(np.int8), none, 0.5, entity=none.astype(np.int64), day=none.astype(np.int64))
    assert told == Quality(0, 0, None, None, None, None, None)


@given(rows())
def test_the_order_of_the_rows_does_not_matter(given_rows: Rows) -> None:
    y, scores = given_rows
    told, reversed_rows = measure(y, scores, 0.5), measure(y[::-1], scores[::-1], 0.5)
    assert (told.average_precision, told.recall, told.precision) == pytest.approx(
        (reversed_rows.average_precision, reversed_rows.recall, reversed_rows.precision)
    )
    assert told.calibration_error == pytest.approx(reversed_rows.calibration_error)


@given(rows())
def test_no_threshold_has_a_larger_f1_than_the_working_one(given_rows: Rows) -> None:
    y, scores = given_rows
    assume(y.any())

    def f1(threshold: float) -> float:
        flagged = scores >= threshold
        return float(2 * y[flagged].sum() / (flagged.sum() + y.sum()))

    assert f1(working_threshold(y, scores)) == max(f1(each) for each in scores)


def test_the_working_threshold_lies_between_two_scores() -> None:
    y = np.array([0, 0, 1, 1], dtype=np.int8)
    assert working_threshold(y, np.array([0.1, 0.2, 0.6, 0.9])) == pytest.approx(0.4)
    assert working_threshold(y, np.full(4, 0.3)) == 0.3
    with pytest.raises(ValueError, match="without positives"):
        working_threshold(y[:2], np.array([0.1, 0.2]))


def test_rows_of_one_entity_make_intervals_wider() -> None:
    y = np.repeat(np.array([0, 1], dtype=np.int8), 50)
    scores = np.random.default_rng(0).random(100) + y * 0.2
    alone, together = (measure(y, scores, 0.5, entity=np.arange(100) // size).intervals for size in (1, 10))
    assert measure(y, scores, 0.5).intervals == alone
    for name, (low, high) in alone.items():
        assert together[name][0] < low < high < together[name][1]


@pytest.mark.parametrize("k", [1, 2])
def test_card_precision_looks_at_the_best_cards_of_each_day_once_they_are_found(k: int) -> None:
    # Day 0: cards 1 (fraud, 0.9) and 2 (0.8) are the two best. Day 1: card 1 is known, so 3 (0.7, fraud) and 2 follow.
    y = np.array([1, 0, 0, 1, 1, 0, 0], dtype=np.int8)
    scores = np.array([0.9, 0.8, 0.1, 0.9, 0.7, 0.6, 0.5])
    entity, day = np.array([1, 2, 3, 1, 3, 2, 4]), np.array([0, 0, 0, 1, 1, 1, 1])
    assert card_precision(y, scores, entity, day, k) == pytest.approx(1 / k)


def test_a_card_counts_with_its_highest_score_of_the_day() -> None:
    y, entity, day = np.array([0, 1, 0], dtype=np.int8), np.array([1, 1, 2]), np.zeros(3, dtype=np.int64)
    assert card_precision(y, np.array([0.1, 0.9, 0.5]), entity, day, 1) == 1.0
    assert card_precision(y, np.array([0.1, 0.4, 0.5]), entity, day, 1) == 0.0


def test_calibration_error_is_the_mean_distance_of_predicted_and_observed() -> None:
    y = np.array([0, 1] * 100, dtype=np.int8)
    assert calibration_error(y, np.full(200, 0.5)) == pytest.approx(0.0)
    assert calibration_error(y, np.full(200, 0.8)) == pytest.approx(0.3)


def test_equal_scores_share_a_bin_whatever_the_order_of_the_rows() -> None:
    y = np.repeat(np.array([0, 1], dtype=np.int8), 100)
    assert calibration_error(y, np.full(200, 0.5)) == pytest.approx(0.0)


def test_the_reliability_diagram_covers_every_row() -> None:
    scores = np.random.default_rng(0).random(1003)
    y = (np.random.default_rng(1).random(1003) < scores).astype(np.int8)
    bins = reliability(y, scores)
    assert sum(each["rows"] for each in bins) == 1003
    assert [each["predicted"] for each in bins] == sorted(each["predicted"] for each in bins)
    error = calibration_error(y, scores)
    assert error is not None
    assert error < 0.08
