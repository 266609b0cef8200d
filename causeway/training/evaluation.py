"""How good predictions are on held-out rows: discrimination, calibration, cards, slices."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from causeway.training.dataset import Dataset, Trained

Scores = NDArray[np.float64]
Labels = NDArray[np.int8]

N_CARDS = 100
N_CALIBRATION_BINS = 10


@dataclass(frozen=True)
class Quality:
    """Metrics of one set of scores; None where a metric is undefined."""

    rows: int
    positives: int
    auc_roc: float | None
    """Area under the ROC curve; None without rows of both labels."""
    average_precision: float | None
    """Area under the precision-recall curve as a sum of steps; None without positives."""
    brier_score: float | None
    """Mean squared difference of probability and label, 0 to 1."""
    calibration_error: float | None
    """Expected calibration error, 0 to 1; see `calibration_error`."""
    log_loss: float | None
    """Mean negative log-likelihood, in nats."""
    card_precision_at_100: float | None = None
    """See `card_precision`; None where the data does not say which entity a row is about, and when."""


@dataclass(frozen=True)
class Evaluation:
    """A model's quality on the test rows, the baseline's beside it, and the model's by slices."""

    model: Quality
    baseline: Quality
    slices: Mapping[str, Quality]
    calibration: list[Mapping[str, float]]
    """The reliability diagram: per bin the number of rows, mean predicted and observed share of positives."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values for evaluation.json."""
        return asdict(self)


def evaluate(trained: Trained, baseline: Trained, test: Dataset) -> Evaluation:
    """The evaluation of `trained` and `baseline` on `test`."""
    scores = trained.predict(test.X)
    return Evaluation(
        model=quality(test, scores),
        baseline=quality(test, baseline.predict(test.X)),
        slices={name: quality(test.take(mask), scores[mask]) for name, mask in test.slices.items()},
        calibration=reliability(test.y, scores),
    )


def train_baseline(train: Dataset) -> Trained:
    """Logistic regression on standardised features: what a model must at least match to be worth its trouble."""
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return Trained(model.fit(train.X, train.y))


def quality(data: Dataset, scores: Scores) -> Quality:
    """All metrics of `scores` (n,) for the rows of `data`."""
    y = data.y
    n, positives = len(y), int(y.sum())
    both = 0 < positives < n
    return Quality(
        rows=n,
        positives=positives,
        auc_roc=float(roc_auc_score(y, scores)) if both else None,
        average_precision=float(average_precision_score(y, scores)) if positives else None,
        brier_score=float(brier_score_loss(y, scores)) if n else None,
        calibration_error=calibration_error(y, scores) if n else None,
        log_loss=float(log_loss(y, scores, labels=[0, 1])) if n else None,
        card_precision_at_100=card_precision(data, scores, N_CARDS) if n else None,
    )


def card_precision(data: Dataset, scores: Scores, k: int) -> float | None:
    """Mean over the days of the share of truly positive entities among the `k` with the highest score of the day.

    An entity's score is its highest of the day; one found positive on an earlier day is not looked at again. None
    without `entity` and `time`. 0 to 1, though fewer than `k` positives in a day keep the best reachable below 1.
    Source: Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud Detection (2022), chapter 4.
    """
    if data.entity is None or data.time is None:
        return None
    found: set[Any] = set()
    precisions = []
    day = data.time.astype("datetime64[D]")
    for today in np.unique(day):
        rows = day == today
        entities, index = np.unique(data.entity[rows], return_inverse=True)
        best = np.full(len(entities), -np.inf)
        np.maximum.at(best, index, scores[rows])
        positive = np.zeros(len(entities), dtype=bool)
        np.logical_or.at(positive, index, data.y[rows] == 1)
        fresh = np.array([entity not in found for entity in entities.tolist()])
        # Among equal scores the order of the entities decides, so that the figure is reproducible.
        order = np.argsort(-best[fresh], kind="stable")[:k]
        hits = positive[fresh][order]
        precisions.append(float(hits.sum()) / k)
        found.update(entities[fresh][order][hits].tolist())
    return float(np.mean(precisions))


def reliability(y: Labels, scores: Scores) -> list[Mapping[str, float]]:
    """The reliability diagram: per bin the rows, mean predicted, and observed share of positives.

    Bins are equally filled as far as rows with the same score stay together.
    """
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, N_CALIBRATION_BINS + 1)[1:-1], method="inverted_cdf"))
    index = np.searchsorted(edges, scores, side="left")
    bins = [index == i for i in range(len(edges) + 1)]
    return [
        {"rows": int(rows.sum()), "predicted": float(scores[rows].mean()), "observed": float(y[rows].mean())}
        for rows in bins
        if rows.any()
    ]


def calibration_error(y: Labels, scores: Scores) -> float:
    """Expected calibration error: mean over the rows of |predicted - observed| of their bin, 0 to 1.

    Bins are equally filled. Source: Naeini, Cooper, Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian
    Binning (AAAI 2015); equally filled bins as in Nguyen and O'Connor (EMNLP 2015), since most scores are small.
    """
    bins = reliability(y, scores)
    return sum(each["rows"] * abs(each["predicted"] - each["observed"]) for each in bins) / len(y)
