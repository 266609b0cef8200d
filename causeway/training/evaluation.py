"""How good predictions are on held-out rows, beside a baseline's and by slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from causeway.quality.measures import Quality, Scores, measure, reliability
from causeway.quality.working import DEFAULT_THRESHOLD, Working
from causeway.training.dataset import Dataset, Trained


@dataclass(frozen=True)
class Evaluation:
    """A model's quality on the test rows, the baseline's beside it, and the model's by slices."""

    model: Quality
    baseline: Quality
    slices: Mapping[str, Quality]
    calibration: list[Mapping[str, float]]
    """The reliability diagram: per bin the number of rows, mean predicted and observed share of positives."""
    working: Working = field(default_factory=Working)
    """The threshold of all precisions and recalls, and the calibration map."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for evaluation.json."""
        values = asdict(self)
        working: dict[str, Any] = msgspec.to_builtins(values.pop("working"))
        return values | working


def evaluate(trained: Trained, baseline: Trained, test: Dataset, working: Working) -> Evaluation:
    """The evaluation of `trained` and `baseline` on `test`."""
    scores, threshold = trained.predict(test.X), working.threshold
    return Evaluation(
        model=quality(test, scores, threshold),
        baseline=quality(test, baseline.predict(test.X), threshold),
        slices={name: quality(test.take(mask), scores[mask], threshold) for name, mask in test.slices.items()},
        calibration=reliability(test.y, scores),
        working=working,
    )


def train_baseline(train: Dataset) -> Trained:
    """Logistic regression on standardised features: what a model must at least match to be worth its trouble."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return Trained(model.fit(train.X, train.y))


def quality(data: Dataset, scores: Scores, threshold: float = DEFAULT_THRESHOLD) -> Quality:
    """All metrics of `scores` (n,) for the rows of `data`."""
    day = None if data.time is None else data.time.astype("datetime64[D]").astype(np.int64)
    return measure(data.y, scores, threshold, entity=data.entity, day=day)
