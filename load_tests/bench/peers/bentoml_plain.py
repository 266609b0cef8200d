"""BentoML as its documentation shows it: one `@bentoml.api` method around a scikit-learn model."""

from __future__ import annotations

import os
from pathlib import Path

import bentoml
import joblib
import numpy as np
from numpy.typing import NDArray


@bentoml.service
class Plain:
    """Scores the rows of one request."""

    def __init__(self) -> None:
        self.model = joblib.load(Path(os.environ["BENCH_FOLDER"], "model.joblib"))

    @bentoml.api  # type: ignore[untyped-decorator]
    def predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probability of fraud, one a row."""
        scores: NDArray[np.float64] = self.model.predict_proba(features)[:, 1]
        return scores
