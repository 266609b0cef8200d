"""The estimate holds the truth as often as it says where its assumptions hold, and is wider the less is known."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from causeway.quality.estimate import CalibrationMap, Estimate, Estimated, estimate
from causeway.quality.measures import Labels, Scores, measure

CALIBRATED = CalibrationMap([0.0, 1.0], [[0.0, 1.0]])
FIGURES = ("average_precision", "auc_roc", "precision", "recall")


def scored(rng: np.random.Generator, n: int) -> tuple[Scores, Labels]:
    """Scores that are probabilities, and labels that fell with them."""
    scores = rng.beta(0.3, 3, n)
    return scores, (rng.random(n) < scores).astype(np.int8)


def is_inside(estimated: Estimated | None, figure: float | None) -> bool:
    assert estimated is not None
    assert figure is not None
    return estimated.low <= figure <= estimated.high


def test_intervals_hold_the_figures_of_calibrated_scores_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(200):
        scores, y = scored(rng, 1000)
        told, realised = estimate(scores, CALIBRATED, 0.3), measure(y, scores, 0.3)
        held.append([is_inside(getattr(told, name), getattr(realised, name)) for name in FIGURES])
        held[-1].append(is_inside(told.positives, float(y.mean())))
    # Of 200 with 95 % each, fewer than 180 come about once in 500 times.
    assert all(180 <= count < 200 for count in np.sum(held, axis=0))


def test_a_map_mends_scores_that_are_no_probabilities() -> None:
    scores, y = scored(np.random.default_rng(1), 20_000)
    knots = np.linspace(0, 1, 30)
    told = estimate(np.sqrt(scores), CalibrationMap(knots.tolist(), [(knots**2).tolist()]), np.sqrt(0.3))
    realised = measure(y, scores, 0.3)
    assert all(is_inside(getattr(told, name), getattr(realised, name)) for name in FIGURES)


def test_maps_that_differ_make_intervals_wider() -> None:
    scores, _ = scored(np.random.default_rng(2), 5000)
    unsure = CalibrationMap([0.0, 1.0], [[0.0, 0.8], [0.0, 1.0], [0.0, 0.9]])
    sure = CalibrationMap([0.0, 1.0], [[0.0, 0.9]])
    for name in ("positives", "precision", "average_precision"):
        narrow, wide = (getattr(estimate(scores, each, 0.3), name) for each in (sure, unsure))
        assert wide.high - wide.low > narrow.high - narrow.low


def test_clusters_make_intervals_wider_and_leave_the_expectation() -> None:
    scores, _ = scored(np.random.default_rng(3), 5000)
    clustered = msgspec.structs.replace(CALIBRATED, clustering=0.7)
    alone = estimate(scores, clustered, 0.3)
    together = estimate(scores, clustered, 0.3, entity=np.arange(5000) // 20)
    assert estimate(scores, CALIBRATED, 0.3, entity=np.arange(5000) // 20) == alone
    assert alone.positives
    assert together.positives
    assert together.positives.high - together.positives.low > 1.5 * (alone.positives.high - alone.positives.low)
    assert together.positives.value == pytest.approx(alone.positives.value, rel=0.03)


@example([0.015], 0.5)
@given(st.lists(st.floats(0, 1), max_size=30), st.sampled_from([0.0, 0.5, 1.0]))
def test_an_interval_has_its_estimate_is_within_0_and_1_and_the_same_each_time(
    given_scores: list[float], threshold: float
) -> None:
    told = estimate(np.array(given_scores), CALIBRATED, threshold)
    assert told == estimate(np.array(given_scores), CALIBRATED, threshold)
    for name in (*FIGURES, "positives"):
        each = getattr(told, name)
        assert each is None or 0 <= each.low <= each.value <= each.high <= 1


def test_what_no_drawing_defines_is_none() -> None:
    assert estimate(np.array([]), CALIBRATED, 0.5) == Estimate(0, None, None, None, None, None)
    never = estimate(np.zeros(10), CALIBRATED, 0.5)
    assert never == Estimate(10, Estimated(0.0, 0.0, 0.0), None, None, None, None)
