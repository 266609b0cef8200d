"""Metrics mean what their definitions say."""

import dataclasses

import numpy as np
import pytest

from causeway.contract import Contract, Feature, Output
from causeway.training.dataset import Dataset
from causeway.training.evaluation import (
    calibration_error,
    card_precision,
    evaluate,
    quality,
    reliability,
    train_baseline,
)

CONTRACT = Contract((Feature("x"),), Output("p"))


def dataset(y: list[int], *, days: list[int] | None = None, entity: list[int] | None = None) -> Dataset:
    return Dataset(
        CONTRACT,
        np.arange(len(y), dtype=np.float32)[:, np.newaxis],
        np.array(y, dtype=np.int8),
        "by hand",
        time=None if days is None else np.datetime64("2024-01-01", "s") + np.array(days) * np.timedelta64(86_400, "s"),
        entity=None if entity is None else np.array(entity),
    )


def test_perfect_scores_are_perfect() -> None:
    y = [0, 1] * 50
    result = quality(dataset(y), np.array(y, dtype=float))
    assert (result.rows, result.positives) == (100, 50)
    assert (result.auc_roc, result.average_precision) == (1.0, 1.0)
    assert result.brier_score == result.calibration_error == 0.0
    assert result.card_precision_at_100 is None


def test_metrics_that_are_undefined_are_none() -> None:
    result = quality(dataset([0] * 10), np.linspace(0, 1, 10))
    assert (result.auc_roc, result.average_precision) == (None, None)
    assert quality(dataset([]), np.array([])) == type(result)(0, 0, None, None, None, None, None)


def test_card_precision_looks_at_the_best_cards_of_each_day_once_they_are_found() -> None:
    # Day 0: cards 1 (fraud, 0.9) and 2 (0.8) are the two best. Day 1: card 1 is known, so 3 (0.7, fraud) and 2 follow.
    data = dataset([1, 0, 0, 1, 1, 0, 0], days=[0, 0, 0, 1, 1, 1, 1], entity=[1, 2, 3, 1, 3, 2, 4])
    scores = np.array([0.9, 0.8, 0.1, 0.9, 0.7, 0.6, 0.5])
    assert card_precision(data, scores, 2) == pytest.approx((1 / 2 + 1 / 2) / 2)


def test_a_card_counts_with_its_highest_score_of_the_day() -> None:
    data = dataset([0, 1, 0], days=[0, 0, 0], entity=[1, 1, 2])
    assert card_precision(data, np.array([0.1, 0.9, 0.5]), 1) == 1.0
    assert card_precision(data, np.array([0.1, 0.4, 0.5]), 1) == 0.0


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
    assert calibration_error(y, scores) < 0.08


def test_slices_are_evaluated_on_their_own_rows() -> None:
    rng = np.random.default_rng(0)
    data = dataset((rng.random(400) < np.linspace(0, 1, 400)).astype(int).tolist())
    data = data.with_slices({"low": data.X[:, 0] < 200, "none": np.zeros(400, dtype=bool)})
    baseline = train_baseline(data)
    result = evaluate(baseline, baseline, data)
    assert result.model == result.baseline
    low = dataclasses.replace(data.take(data.slices["low"]), slices={})
    assert result.slices["low"] == quality(low, baseline.predict(low.X))
    assert result.slices["none"].rows == 0
