"""Card-fraud probability from gradient-boosted trees over amount, time, customer and terminal history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier

from causeway.contract import Array
from causeway.training import Dataset, Trained, sklearn_to_onnx
from models.transactions import CONTRACT, NAME, default_data, from_table

__all__ = ["CONTRACT", "NAME", "Params", "default_data", "from_table", "to_artifact", "train"]

MAX_BINS = 255
"""Most distinct values of a feature that scikit-learn's histograms tell apart."""


@dataclass(frozen=True)
class Params:
    """Hyper-parameters of scikit-learn's HistGradientBoostingClassifier, under its own names."""

    max_iter: int = 200
    learning_rate: float = 0.045
    max_leaf_nodes: int = 8
    min_samples_leaf: int = 40
    max_features: float = 0.7
    l2_regularization: float = 1.0


def train(data: Dataset, params: Params, seed: int) -> Trained:
    """Boosted trees fitted on all rows of `data`, with bins that also tell rare large values apart."""
    model = HistGradientBoostingClassifier(
        max_iter=params.max_iter,
        learning_rate=params.learning_rate,
        max_leaf_nodes=params.max_leaf_nodes,
        min_samples_leaf=params.min_samples_leaf,
        max_features=params.max_features,
        l2_regularization=params.l2_regularization,
        early_stopping=False,
        random_state=seed,
    )
    return Trained(model.fit(_binned(data.X), data.y))


def to_artifact(trained: Trained) -> bytes:
    """The trees as one ONNX graph."""
    return sklearn_to_onnx(trained.model, CONTRACT.width)


def _binned(X: Array) -> NDArray[np.float64]:
    """X (n_rows, n_features) with at most `MAX_BINS` values a feature, each the nearest of `_representatives`.

    scikit-learn bins by quantiles, which puts all of a long tail into a few bins: with one amount in a thousand over
    220, no split could fall near 220.
    """
    binned = X.astype(np.float64)
    for column in binned.T:
        representatives = _representatives(column)
        column[:] = representatives[np.searchsorted((representatives[1:] + representatives[:-1]) / 2, column)]
    return binned


def _representatives(column: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values to stand for all: a third quantiles of rows, a third of distinct values, a third equally spaced."""
    distinct = np.unique(column)
    if len(distinct) <= MAX_BINS:
        return distinct
    shares = np.linspace(0, 1, MAX_BINS // 3)
    by_rows = np.quantile(column, shares, method="inverted_cdf")
    by_values = np.quantile(distinct, shares, method="inverted_cdf")
    by_width = np.linspace(distinct[0], distinct[-1], MAX_BINS // 3)
    return np.unique(np.concatenate([by_rows, by_values, by_width]))
