"""The calibration map makes probabilities of scores, and knows how sure it is and how positives cluster."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from causeway.contract import Contract, Feature, Output
from causeway.training.calibration import calibration_map, clustering, out_of_fold, working
from causeway.training.dataset import Dataset, Trained
from causeway.training.evaluation import train_baseline

CONTRACT = Contract((Feature("x"),), Output("p"))


def dataset(n: int, entity: NDArray[np.int64] | None = None, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 1)).astype(np.float32)
    y = (rng.random(n) < 1 / (1 + np.exp(3 - 2 * x[:, 0]))).astype(np.int8)
    return Dataset(CONTRACT, x, y, "by hand", entity=entity)


class Memory:
    """Gives 1 to rows that it was fitted on, 0 to others."""

    def __init__(self, data: Dataset) -> None:
        self.seen = set(data.X[:, 0].tolist())

    def predict_proba(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        known = np.array([x in self.seen for x in X[:, 0].tolist()], dtype=float)
        return np.column_stack([1 - known, known])


def test_no_row_is_scored_by_a_model_that_has_seen_it() -> None:
    assert not out_of_fold(lambda part: Trained(Memory(part)), dataset(300), seed=0).any()


def test_no_row_is_scored_by_a_model_that_has_seen_its_entity() -> None:
    data = dataset(300, entity=np.arange(300) // 3)
    data.X[:, 0] = data.entity
    assert not out_of_fold(lambda part: Trained(Memory(part)), data, seed=0).any()


def test_scores_that_are_probabilities_stay_what_they_are() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    mapped = calibration_map((rng.random(20_000) < scores).astype(np.int8), scores, None, seed=0)
    x = np.linspace(0.02, 0.98, 50)
    assert np.abs(mapped(x) - x).max() < 0.05
    assert mapped.clustering == 0


def test_probabilities_grow_with_the_score_and_none_is_certain() -> None:
    scores = np.linspace(0, 1, 500)
    mapped = calibration_map((scores > 0.9).astype(np.int8), scores, None, seed=0)
    assert all(np.diff(each).min() >= 0 for each in mapped.probabilities)
    assert all(0 < each[0] < each[-1] < 1 for each in mapped.probabilities)
    assert mapped.scores == sorted(set(mapped.scores))


def test_fewer_rows_make_a_map_that_is_less_sure() -> None:
    def spread(n: int) -> float:
        rng = np.random.default_rng(1)
        scores = rng.random(n)
        mapped = calibration_map((rng.random(n) < scores).astype(np.int8), scores, None, seed=0)
        return float(np.std([np.interp(0.5, mapped.scores, each) for each in mapped.probabilities]))

    assert spread(300) > 2 * spread(20_000)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
def test_clustering_is_found_again(share: float) -> None:
    rng = np.random.default_rng(2)
    n, size = 60_000, 10
    entity, probabilities = np.arange(n) // size, rng.beta(0.3, 3, n)
    common = rng.random(n) < share
    chance = np.where(common, rng.random(n // size)[entity], rng.random(n))
    y = (chance < probabilities).astype(np.int8)
    assert clustering(y, probabilities, entity) == pytest.approx(share, abs=0.1)


def test_rows_that_are_all_of_different_entities_do_not_cluster() -> None:
    y = np.array([0, 1, 0, 1], dtype=np.int8)
    assert clustering(y, np.full(4, 0.5), np.arange(4)) == 0.0


def test_the_working_threshold_flags_about_as_many_rows_as_are_positive() -> None:
    data = dataset(2000)
    learnt = working(train_baseline, data, seed=0)
    flagged = train_baseline(data).predict(data.X) >= learnt.threshold
    assert 0.5 * data.y.sum() < flagged.sum() < 2 * data.y.sum()
    assert learnt == working(train_baseline, data, seed=0)
