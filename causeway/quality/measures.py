"""How good scores turned out to be, from scores (n,) and labels (n,) of 0 and 1: discrimination, calibration, cards.

A figure that is undefined for the rows is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from causeway.quality.intervals import Interval, design_effect, wilson

Scores = NDArray[np.float64]
Labels = NDArray[np.int8]
Numbers = NDArray[np.int64]
"""(n,) whole numbers: which entity a row is about, or on which day it happened."""

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
    """See `card_precision`; None where it is not known which entity a row is about, and when."""
    precision: float | None = None
    """Share of positives among the rows at or above the working threshold; None without such rows."""
    recall: float | None = None
    """Share of the positives that are at or above the working threshold; None without positives."""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    """95 % confidence intervals, by the name of the figure; see `intervals`."""


def measure(
    y: Labels, scores: Scores, threshold: float, *, entity: Numbers | None = None, day: Numbers | None = None
) -> Quality:
    """All metrics of `scores` for the labels `y`, precision and recall with `threshold` as the working threshold.

    entity, day: (n,), where they are known.
    """
    figures: dict[str, float | None] = {
        "auc_roc": roc_auc(y, scores),
        "average_precision": average_precision(y, scores),
        "precision": precision(y, scores, threshold),
        "recall": recall(y, scores, threshold),
    }
    return Quality(
        rows=len(y),
        positives=int(y.sum()),
        brier_score=float(np.mean((scores - y) ** 2)) if len(y) else None,
        calibration_error=calibration_error(y, scores),
        log_loss=log_loss(y, scores),
        card_precision_at_100=None if entity is None or day is None else card_precision(y, scores, entity, day),
        intervals=intervals(y, scores, threshold, figures, entity),
        **figures,
    )


def average_precision(y: Labels, scores: Scores) -> float | None:
    """Mean over the positives of the precision among the rows that score at least as high; None without positives.

    Source: scikit-learn's definition, a sum of steps without interpolation; ties count together.
    """
    order = np.argsort(-scores, kind="stable")
    return Ranks(scores[order]).average_precision(np.flatnonzero(y[order]))


def roc_auc(y: Labels, scores: Scores) -> float | None:
    """Share of pairs of a positive and a negative in which the positive scores higher, ties half; None without both.

    Source: Hanley and McNeil, Radiology 143 (1982).
    """
    order = np.argsort(-scores, kind="stable")
    return Ranks(scores[order]).roc_auc(np.flatnonzero(y[order]))


class Ranks:
    """Rows by falling score, for figures of many labellings of them: a labelling is the positions of its positives."""

    def __init__(self, falling: Scores) -> None:
        starts = np.flatnonzero(np.concatenate([[True], falling[1:] != falling[:-1]])[: len(falling)])
        sizes = np.diff(np.append(starts, len(falling)))
        self.n = len(falling)
        self._ends = np.repeat(starts + sizes, sizes)
        """How many rows score at least as high, ties among them."""
        self._higher = np.repeat(starts + (sizes - 1) / 2, sizes)
        """How many rows score higher, ties half."""

    def average_precision(self, positives: NDArray[np.intp]) -> float | None:
        """See the function."""
        if not len(positives):
            return None
        ends = self._ends[positives]
        return float(np.mean(np.searchsorted(positives, ends) / ends))

    def roc_auc(self, positives: NDArray[np.intp]) -> float | None:
        """See the function."""
        n_positives = len(positives)
        pairs = n_positives * (self.n - n_positives)
        if not pairs:
            return None
        # Each positive's rows above it, less those that are positives themselves.
        above = self._higher[positives].sum() - n_positives * (n_positives - 1) / 2
        return float(1 - above / pairs)


def precision(y: Labels, scores: Scores, threshold: float) -> float | None:
    """Share of positives among the rows that score at least `threshold`; None without such rows."""
    flagged = y[scores >= threshold]
    return float(flagged.mean()) if len(flagged) else None


def recall(y: Labels, scores: Scores, threshold: float) -> float | None:
    """Share of the positives that score at least `threshold`; None without positives."""
    positives = scores[y == 1]
    return float(np.mean(positives >= threshold)) if len(positives) else None


def working_threshold(y: Labels, scores: Scores) -> float:
    """The score from which on a row counts as positive, such that F1 is largest; halfway to the next lower score.

    F1, the harmonic mean of precision and recall, asks for no costs, which only the user knows. Where several are as
    good, the highest. Source: Lipton, Elkan, Naryanaswamy, Optimal Thresholding of Classifiers to Maximize F1 Measure
    (ECML 2014), by which it is half of the F1 that it reaches where scores are probabilities.
    Raises `ValueError` without positives.
    """
    if not y.any():
        raise ValueError("no threshold is better than another without positives")
    order = np.argsort(-scores, kind="stable")
    falling, hits = scores[order], np.cumsum(y[order], dtype=np.int64)
    last = np.flatnonzero(np.append(falling[1:] != falling[:-1], True))
    best = int(np.argmax(2 * hits[last] / (last + 1 + hits[-1])))
    score, lower = falling[last[best]], falling[min(last[best] + 1, len(falling) - 1)]
    middle = (score + lower) / 2
    return float(middle if middle > lower else score)


def log_loss(y: Labels, scores: Scores) -> float | None:
    """Mean negative log-likelihood in nats, of probabilities kept off 0 and 1 by the smallest float; None without rows.

    As scikit-learn has it.
    """
    if not len(y):
        return None
    epsilon = np.finfo(np.float64).eps
    likelihood = np.where(y == 1, scores, 1 - scores)
    return float(-np.log(np.clip(likelihood, epsilon, 1 - epsilon)).mean())


def card_precision(y: Labels, scores: Scores, entity: Numbers, day: Numbers, k: int = N_CARDS) -> float | None:
    """Mean over the days of the share of truly positive entities among the `k` with the highest score of the day.

    An entity's score is its highest of the day; one found positive on an earlier day is not looked at again. None
    without rows. 0 to 1, though fewer than `k` positives in a day keep the best reachable below 1.
    Source: Le Borgne et al., Reproducible Machine Learning for Credit Card Fraud Detection (2022), chapter 4.
    """
    found: set[Any] = set()
    precisions = []
    for today in np.unique(day):
        rows = day == today
        entities, index = np.unique(entity[rows], return_inverse=True)
        best = np.full(len(entities), -np.inf)
        np.maximum.at(best, index, scores[rows])
        positive = np.zeros(len(entities), dtype=bool)
        np.logical_or.at(positive, index, y[rows] == 1)
        fresh = np.array([entity not in found for entity in entities.tolist()])
        # Among equal scores the order of the entities decides, so that the figure is reproducible.
        order = np.argsort(-best[fresh], kind="stable")[:k]
        hits = positive[fresh][order]
        precisions.append(float(hits.sum()) / k)
        found.update(entities[fresh][order][hits].tolist())
    return float(np.mean(precisions)) if precisions else None


def reliability(y: Labels, scores: Scores) -> list[Mapping[str, float]]:
    """The reliability diagram: per bin the rows, mean predicted, and observed share of positives.

    Bins are equally filled as far as rows with the same score stay together.
    """
    if not len(y):
        return []
    edges = np.unique(np.quantile(scores, np.linspace(0, 1, N_CALIBRATION_BINS + 1)[1:-1], method="inverted_cdf"))
    index = np.searchsorted(edges, scores, side="left")
    bins = [index == i for i in range(len(edges) + 1)]
    return [
        {"rows": int(rows.sum()), "predicted": float(scores[rows].mean()), "observed": float(y[rows].mean())}
        for rows in bins
        if rows.any()
    ]


def calibration_error(y: Labels, scores: Scores) -> float | None:
    """Expected calibration error: mean over the rows of |predicted - observed| of their bin, 0 to 1; None without rows.

    Bins are equally filled. Source: Naeini, Cooper, Hauskrecht, Obtaining Well Calibrated Probabilities Using Bayesian
    Binning (AAAI 2015); equally filled bins as in Nguyen and O'Connor (EMNLP 2015), since most scores are small.
    """
    bins = reliability(y, scores)
    if not bins:
        return None
    return sum(each["rows"] * abs(each["predicted"] - each["observed"]) for each in bins) / len(y)


def intervals(
    y: Labels, scores: Scores, threshold: float, figures: Mapping[str, float | None], entity: Numbers | None
) -> dict[str, Interval]:
    """95 % confidence intervals of the `figures` that are defined, and of `positives`, as a share of the rows.

    Wilson's, of shares: precision is one of the rows at or above the threshold, recall one of the positives. Average
    precision a is taken for one of the positives, whose variance is a(1 - a)/n (Boyd, Eng, Page, Area under the
    Precision-Recall Curve: Point Estimates and Confidence Intervals, ECML 2013), and the area under the ROC curve A for
    one of the rarer label: its variance is at most A(1 - A)/n, whatever the scores' distribution (Birnbaum and Klose,
    Annals of Mathematical Statistics 28, 1957). Positives of one `entity` are taken to say the same thing
    (`design_effect`).
    """
    n_positives = int(y.sum())
    counted = {
        "auc_roc": min(n_positives, len(y) - n_positives),
        "average_precision": n_positives,
        "precision": int((scores >= threshold).sum()),
        "recall": n_positives,
    }
    effect = 1.0 if entity is None else design_effect(entity[y == 1])
    found = {name: wilson(figure, counted[name] / effect) for name, figure in figures.items() if figure is not None}
    return found | ({"positives": wilson(n_positives / len(y), len(y) / effect)} if len(y) else {})
