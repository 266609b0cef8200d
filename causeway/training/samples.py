"""Rows with the predictions of the trained model, replayed by every process that loads the version."""

from __future__ import annotations

import numpy as np

from causeway.training.dataset import Dataset, Trained
from causeway.version import Samples

N_SAMPLES = 32


def samples(test: Dataset, trained: Trained) -> Samples:
    """Test rows spread evenly over the order of their scores, so that low, middling and high ones are all replayed."""
    scores = trained.predict(test.X)
    order = np.argsort(scores, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(N_SAMPLES, len(order))).astype(np.intp)]
    return Samples(
        features=test.X[rows].astype(np.float64).tolist(),
        predictions=scores[rows, np.newaxis].tolist(),
        tolerance=test.contract.output.tolerance,
    )
