"""Metrics mean what their definitions say."""

import dataclasses

import msgspec
import numpy as np

from causeway.contract import Contract, Feature, Output
from causeway.quality.estimate import CalibrationMap
from causeway.quality.working import Working
from causeway.training.dataset import Dataset
from causeway.training.evaluation import evaluate, quality, train_baseline

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


def test_slices_are_evaluated_on_their_own_rows() -> None:
    rng = np.random.default_rng(0)
    data = dataset((rng.random(400) < np.linspace(0, 1, 400)).astype(int).tolist())
    data = data.with_slices({"low": data.X[:, 0] < 200, "none": np.zeros(400, dtype=bool)})
    baseline = train_baseline(data)
    result = evaluate(baseline, baseline, data, Working(0.4))
    assert result.model == result.baseline
    low = dataclasses.replace(data.take(data.slices["low"]), slices={})
    assert result.slices["low"] == quality(low, baseline.predict(low.X), 0.4)
    assert result.slices["none"].rows == 0


def test_cards_are_looked_at_by_the_day_where_the_data_knows_both() -> None:
    scores = np.array([0.9, 0.1, 0.8])
    assert quality(dataset([1, 0, 1], days=[0, 0, 1], entity=[1, 2, 3]), scores).card_precision_at_100 == 0.01
    assert quality(dataset([1, 0, 1], days=[0, 0, 1]), scores).card_precision_at_100 is None
    assert quality(dataset([1, 0, 1], entity=[1, 2, 3]), scores).card_precision_at_100 is None


def test_production_reads_back_what_training_left() -> None:
    data = dataset([0, 1] * 50)
    baseline, working = train_baseline(data), Working(0.3, CalibrationMap([0.0, 1.0], [[0.1, 0.9]], 0.2))
    result = evaluate(baseline, baseline, data, working)
    assert Working.from_json(msgspec.json.encode(result.to_dict())) == working
    assert result.model.recall == quality(data, baseline.predict(data.X), 0.3).recall
