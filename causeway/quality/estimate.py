"""How good scores probably are, before labels come: confidence-based performance estimation.

A score says, by a calibration map learnt at training, with which probability its row is positive. Labels are drawn with
these probabilities many times over; the figures of each drawing are those of the rows as they could turn out.

Assumed: rows with the same score are positive as often as at training, however often a score comes now (covariate
shift only). Where that changes, which is concept drift, scores alone cannot tell: labels can. Assumed too: the model
ranks rows as well as the models of the folds did, on whose scores the map was learnt.
`load_tests/studies/quality.py` measures how often the intervals hold where this is true only nearly.

Sources: NannyML's CBPE, and Białek et al., We Don't Need No Labels: Estimating Post-Deployment Model Performance under
Covariate Shift without Ground Truth (2024). Their M-CBPE learns the map anew for each window, for which the training
rows would have to be at hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from causeway.quality.measures import Numbers, Ranks, Scores

DRAWINGS = 200
"""Labellings that are drawn."""

LEVEL = 0.95
"""How often a figure should lie in its interval once the labels are there."""


class CalibrationMap(msgspec.Struct, frozen=True):
    """From a score to the probability of label 1: straight lines between the `scores`, level outside."""

    scores: list[float]
    """(n_knots,), growing."""
    probabilities: list[list[float]]
    """(n_maps, n_knots), each learnt from another resampling of the rows: how they differ is how unsure the map is."""
    clustering: float = 0.0
    """Share of its rows of which an entity decides for all at once whether they are positive; see `estimate`."""

    def each(self, scores: Scores) -> Iterator[Scores]:
        """The probabilities (n,) for `scores` (n,) by one map after the other."""
        return (np.interp(scores, self.scores, probabilities) for probabilities in self.probabilities)

    def __call__(self, scores: Scores) -> Scores:
        """The probabilities (n,) for `scores` (n,), the mean of the maps."""
        return np.interp(scores, self.scores, np.mean(self.probabilities, axis=0))


@dataclass(frozen=True)
class Estimated:
    """A figure that is not known yet: its expectation, and between what it lies with 95 % probability."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Estimate:
    """The quality that rows probably have; None where a figure was undefined for each labelling that was drawn."""

    rows: int
    positives: Estimated | None
    """As a share of the rows."""
    auc_roc: Estimated | None
    average_precision: Estimated | None
    precision: Estimated | None
    """At the working threshold, and so is `recall`."""
    recall: Estimated | None


def estimate(
    scores: Scores, calibration_map: CalibrationMap, threshold: float, *, entity: Numbers | None = None, seed: int = 0
) -> Estimate:
    """The quality that rows with these `scores` (n,) probably have.

    The intervals cover how the labels fall and how unsure the calibration map is. Positives come in clusters, as frauds
    with one card do, which makes figures of a few rows less certain: where `entity` (n,) is known, each row is one of
    its entity's common decision with the probability `calibration_map.clustering`. Its own probability stays the same.
    """
    order = np.argsort(-scores, kind="stable")
    falling = scores[order]
    ranks, n_flagged = Ranks(falling), int(np.count_nonzero(scores >= threshold))
    draw = _Draw(None if entity is None else entity[order], calibration_map.clustering, np.random.default_rng(seed))
    times = -(-DRAWINGS // len(calibration_map.probabilities))
    drawn = [
        _figures(ranks, draw(probabilities), n_flagged)
        for probabilities in calibration_map.each(falling)
        for _ in range(times)
    ]
    return Estimate(len(scores), *(_estimated(values) for values in zip(*drawn, strict=True)))


class _Draw:
    """Which of n rows are positive, by chance: their positions, growing."""

    def __init__(self, entity: Numbers | None, clustering: float, rng: np.random.Generator) -> None:
        self._group = np.unique(entity, return_inverse=True)[1] if entity is not None and clustering else None
        self._clustering = clustering
        self._rng = rng

    def __call__(self, probabilities: Scores) -> NDArray[np.intp]:
        n = len(probabilities)
        chance = self._rng.random(n)
        if self._group is not None:
            common = self._rng.random(n) < self._clustering
            chance[common] = self._rng.random(n)[self._group[common]]
        return np.flatnonzero(chance < probabilities)


def _figures(ranks: Ranks, positives: NDArray[np.intp], n_flagged: int) -> tuple[float | None, ...]:
    """Of one drawing, in the order of `Estimate`."""
    hits = int(np.searchsorted(positives, n_flagged))
    return (
        len(positives) / ranks.n if ranks.n else None,
        ranks.roc_auc(positives),
        ranks.average_precision(positives),
        hits / n_flagged if n_flagged else None,
        hits / len(positives) if len(positives) else None,
    )


def _estimated(values: tuple[float | None, ...]) -> Estimated | None:
    defined = [value for value in values if value is not None]
    if not defined:
        return None
    value = float(np.mean(defined))
    low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    # Of few rows hardly a drawing may have a positive: then the expectation lies beyond the quantiles.
    return Estimated(value, min(float(low), value), max(float(high), value))
