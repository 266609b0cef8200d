"""How scores become probabilities, and where the working threshold lies: learnt from rows a model was not fitted on.

The held-out rows are not used for it, so that what they say about both is said by rows that had no part in them.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from causeway.quality.estimate import CalibrationMap
from causeway.quality.measures import Numbers, Scores, working_threshold
from causeway.quality.working import Working
from causeway.training.dataset import Dataset, Trained, folds

N_FOLDS = 3
"""Parts of the rows, each scored by a model fitted on the others; 5 calibrated no better, and take longer."""

N_MAPS = 40
"""Resamplings of the rows, each with a map of its own."""

N_QUANTILES = 16
"""Knots of a map are at so many quantiles of the scores of all rows, and of the positives'."""

DIGITS = 5
"""Significant digits of what is kept."""


def working(fit: Callable[[Dataset], Trained], data: Dataset, seed: int) -> Working:
    """The working threshold and the calibration map of models like those that `fit` gives, from the rows of `data`."""
    scores = out_of_fold(fit, data, seed)
    return Working(working_threshold(data.y, scores), calibration_map(data.y, scores, data.entity, seed))


def out_of_fold(fit: Callable[[Dataset], Trained], data: Dataset, seed: int) -> Scores:
    """A score (n,) for each row of `data`, by a model that was fitted on the `folds` that it is not in."""
    scores = np.empty(len(data))
    for fitted, scored in folds(data, N_FOLDS, seed):
        scores[scored] = fit(data.take(fitted)).predict(data.X[scored])
    return scores


def calibration_map(y: NDArray[np.int8], scores: Scores, entity: Numbers | None, seed: int) -> CalibrationMap:
    """From out-of-fold `scores` (n,) with labels `y` (n,) to probabilities: isotonic regression, on resamplings.

    Entities are drawn with replacement where they are known, otherwise rows (cluster bootstrap: Field and Welsh,
    Journal of the Royal Statistical Society B 69, 2007). A positive is added below all scores, and a negative above
    them: no score is ever proof (Laplace's rule of succession). Isotonic regression: Zadrozny and Elkan, KDD 2002. On
    the published days that are neither for training nor for testing its log loss is 0.02008, that of Platt's map
    0.02018, of beta calibration 0.02020, of the scores themselves 0.02041.
    """
    shares = np.linspace(0, 1, N_QUANTILES)
    knots = np.unique(_rounded(np.concatenate([np.quantile(part, shares) for part in (scores, scores[y == 1])])))
    group = np.arange(len(y)) if entity is None else np.unique(entity, return_inverse=True)[1]
    n_groups = int(group.max()) + 1
    x = np.concatenate([[scores.min()], scores, [scores.max()]])
    target = np.concatenate([[1], y, [0]])
    rng = np.random.default_rng(seed)
    maps = []
    for _ in range(N_MAPS):
        times = np.bincount(rng.integers(n_groups, size=n_groups), minlength=n_groups)[group]
        weight = np.concatenate([[1], times, [1]])
        drawn = weight > 0
        isotonic = IsotonicRegression(out_of_bounds="clip").fit(x[drawn], target[drawn], weight[drawn])
        maps.append(_rounded(isotonic.predict(knots)))
    mapped = CalibrationMap(knots.tolist(), maps)
    if entity is None:
        return mapped
    return msgspec.structs.replace(mapped, clustering=clustering(y, mapped(scores), group))


def clustering(y: NDArray[np.int8], probabilities: Scores, entity: Numbers) -> float:
    """The share of rows of which an entity decides in common whether they are positive, 0 to 1; see `estimate`.

    By the method of moments: a pair of rows that share the decision have the covariance min(p, q) - pq, and a share c
    makes c squared of an entity's pairs such ones. c is what gives the covariance of the residuals y - p that was seen.
    """
    group = np.unique(entity, return_inverse=True)[1]
    residuals = y - probabilities
    order = np.lexsort((-probabilities, group))
    # In falling order a row's probability is the smaller one in its pairs with those before it.
    before = np.arange(len(order)) - np.searchsorted(group[order], group[order])
    smaller = float((probabilities[order] * before).sum())
    most = 2 * smaller - _over_pairs(probabilities, group)
    return float(np.sqrt(np.clip(_over_pairs(residuals, group) / most, 0, 1))) if most > 0 else 0.0


def _over_pairs(values: Scores, group: NDArray[np.intp]) -> float:
    """The products of each value with each other of its group, summed."""
    return float((np.bincount(group, values) ** 2).sum() - (values**2).sum())


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]
