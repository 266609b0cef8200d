"""A reference made at training: its bins, and thresholds with a stated false-alarm rate.

While nothing has changed, a window of n rows and the held-out rows are two samples of one distribution. For each column
both are drawn many times from it, as counts of its bins, and the thresholds are such that in at most `RATE` divided by
the number of columns of the draws any of the column's statistics exceeds its own. By Bonferroni's inequality at most
`RATE` of the windows alarm at all, whatever the dependence between columns. It is the rate over windows and held-out
rows: where windows are many times larger than an unlucky set of held-out rows, they alarm one after the other.

That holds for rows drawn independently. Traffic comes in time: 1 000 rows of one night are all TX_DURING_NIGHT. Where
the held-out rows have times, thresholds are multiplied by a design effect (Kish, Survey Sampling, 1965): how much
further windows of rows in a row are, on average, from the other held-out rows than drawn ones would be. What repeats
within the held-out days is thereby no alarm in a window of as many rows. The rate then holds as far as traffic varies
around the held-out rows as these do among themselves, at about as many rows an hour. It says nothing of what they do
not show: another season, a trend, a campaign. Such changes are drift, and alarm.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from causeway.contract import FLOAT32_MAX, Array
from causeway.drift.reference import SIZES, Column, Reference
from causeway.drift.statistics import Floats, scaled

RATE = 0.01
"""The share of windows that alarm in any column while nothing has changed, at most."""

DOUBT = 0.05
"""How likely it is, at most, that the draws were so few or so odd that a column's own share is larger than stated."""

DRAWS, MOST_DRAWS = 13_000, 30_000
"""Of a column and size. From 44 columns on more are needed, and from 101 on the stated rate grows with them."""

N_BINS = 20
"""Of a column with many values: as many rows in each, where values allow."""

MIN_SHARE = 0.01
"""Of the rows in a bin of a column with few values; rarer values share one with their neighbours."""

MARGIN = 1e-5
"""How much differently a value may be computed in serving: a share of the column's range, and of the value."""

BLOCK = SIZES[0]
"""Rows in a row that are counted together, for design effects."""

MIN_WINDOWS = 3
"""Of a size, side by side, for its design effect to be measured."""


@dataclass(frozen=True)
class Samples:
    """The rows that a reference is made from."""

    training: Array
    """(n, n_features)."""
    held_out: Array
    """(m, n_features)."""
    scores: NDArray[np.floating[Any]]
    """(m,) of the held-out rows."""
    time: NDArray[np.datetime64] | None = None
    """(m,) of the held-out rows; None where it is not known."""


def calibrate(names: Sequence[str], samples: Samples, seed: int) -> Reference:
    """The reference of the features and the output, by these `names`; takes some 0.2 s a column."""
    draws = min(max(DRAWS, math.ceil(3 / RATE * len(names))), MOST_DRAWS)
    tail = max(RATE / len(names), 3 / draws)  # with fewer draws than 3 / tail, even the largest of them proves nothing
    rng = np.random.default_rng(seed)
    is_in_time_order = samples.time is not None
    columns = []
    for name, (held_out, training) in zip(names, _by_column(samples), strict=True):
        column = _column(name, held_out, training)
        windows = _in_blocks(column, held_out) if is_in_time_order else None
        columns.append(_calibrated(column, windows, tail, draws, rng))
    return Reference(tuple(columns), tail * len(names), is_in_time_order)


def _by_column(samples: Samples) -> Iterator[tuple[Array, Array | None]]:
    """Of each column the held-out values, in time order where times are known, and those of the training rows."""
    order = slice(None) if samples.time is None else np.argsort(samples.time, kind="stable")
    yield from zip(samples.held_out[order].T, samples.training.T, strict=True)
    yield samples.scores[order].astype(np.float32), None


def _column(name: str, held_out: Array, training: Array | None) -> Column:
    """The column without thresholds."""
    values, n_rows = np.unique(held_out, return_counts=True)
    is_few_valued = len(values) <= N_BINS
    known = [held_out] if training is None else [held_out, training]
    seen = min(float(sample.min()) for sample in known), max(float(sample.max()) for sample in known)
    edges = _edges(values, n_rows, MIN_SHARE if is_few_valued else 1 / N_BINS, seen)
    counts = [np.bincount(np.searchsorted(edges, sample), minlength=len(edges) + 1).tolist() for sample in known]
    exact = held_out.astype(np.float64)
    return Column(
        name=name,
        edges=edges.tolist(),
        counts=counts[0],
        mean=float(exact.mean()),
        standard_deviation=float(exact.std()),
        minimum=seen[0],
        maximum=seen[1],
        training_counts=None if training is None else counts[1],
        is_few_valued=is_few_valued,
    )


def _edges(values: Array, n_rows: NDArray[np.int64], share: float, seen: tuple[float, float]) -> Array:
    """Of bins for the ascending distinct `values`, with an open one on either side for what is outside of `seen`.

    Each bin has at least that share of the rows, the last at least half of it; there are two at least, however rare one
    of two values is. Edges lie midway between values, or a little beside one, so that a value computed a little
    differently in serving stays in its bin.
    """
    margin = MARGIN * (seen[1] - seen[0])
    outside = _around(*seen, margin)
    if len(values) == 1:
        return np.unique(np.concatenate([outside, _around(values[0], values[0], margin)]))
    up_to, least = np.cumsum(n_rows), share * n_rows.sum()
    last, before = [], 0
    while (place := int(np.searchsorted(up_to, before + least))) < len(values) - 1:
        last.append(place)
        before = up_to[place]
    if len(last) > 1 and up_to[-1] - before < least / 2:
        last.pop()
    lower, upper = values[last or [-2]], values[np.add(last or [-2], 1)]
    midway = lower + (upper - lower) / 2
    return np.unique(np.concatenate([outside, np.where(midway < upper, midway, lower)]))


def _around(least: float, greatest: float, margin: float) -> Array:
    """Two edges such that all from `least` to `greatest`, and a little beside, is between them."""
    below, above = least - margin - MARGIN * abs(least), greatest + margin + MARGIN * abs(greatest)
    edges = np.clip([below, above], -FLOAT32_MAX, FLOAT32_MAX).astype(np.float32)
    edges[0] = np.nextafter(edges[0], np.float32(-np.inf))
    return edges


def _calibrated(
    column: Column, windows: NDArray[np.int64] | None, tail: float, draws: int, rng: np.random.Generator
) -> Column:
    """The column with thresholds; `windows` are its rows in a row, as of `_in_blocks`."""
    counts = np.array(column.counts)
    likely = (counts + 0.5) / (counts + 0.5).sum()  # Jeffreys' prior: an empty bin is rare, not impossible
    references = rng.multinomial(counts.sum(), likely, size=draws)
    limits, means = defaultdict(list), defaultdict(list)
    for size in SIZES:
        drawn = rng.multinomial(size, likely, size=draws)
        of_size = {name: scaled(name, references, drawn) for name in column.statistics}
        for name, limit in _limits(of_size, tail).items():
            limits[name].append(limit)
            means[name].append(float(of_size[name].mean()))
    if windows is None:
        return msgspec.structs.replace(column, thresholds=dict(limits))
    dependence = {name: _dependence(name, windows, means[name]) for name in column.statistics}
    thresholds = {name: np.multiply(limits[name], dependence[name]).tolist() for name in column.statistics}
    return msgspec.structs.replace(column, thresholds=thresholds, dependence=dependence)


def _limits(drawn: Mapping[str, Floats], tail: float) -> dict[str, float]:
    """Of each statistic (draws,) what it may be at most, so that in at most `tail` of all windows any of them is more.

    Each statistic has the same number of draws above its limit, and these are so few that, but for `DOUBT`, the share
    of all windows is within `tail`: an upper confidence limit of the quantile, by the binomial distribution.
    """
    (n_draws,) = {len(values) for values in drawn.values()}
    descending = {name: np.argsort(-values, kind="stable") for name, values in drawn.items()}
    best = np.full(n_draws, n_draws)  # the best place of a draw in any of the orders
    for order in descending.values():
        best[order] = np.minimum(best[order], np.arange(n_draws))
    place = int(np.sort(best)[_allowed(n_draws, tail)])
    return {name: float(drawn[name][order[place]]) for name, order in descending.items()}


def _allowed(n_draws: int, tail: float) -> int:
    """The largest number of draws beyond a limit that is, if the share beyond it were `tail`, as unlikely as `DOUBT`.

    Needs `n_draws` of at least 3 / `tail`.
    """
    k, probability = 0, (1 - tail) ** n_draws
    cumulative = probability
    while cumulative <= DOUBT:
        probability *= (n_draws - k) / (k + 1) * tail / (1 - tail)
        k += 1
        cumulative += probability
    return k - 1


def _in_blocks(column: Column, values: Array) -> NDArray[np.int64]:
    """(n_blocks + 1, n_bins): how many of the first 0, `BLOCK`, 2 * `BLOCK`, ... values are in each bin."""
    bins = np.searchsorted(np.array(column.edges, dtype=np.float32), values)
    n_blocks = len(values) // BLOCK
    cells = np.repeat(np.arange(n_blocks), BLOCK) * len(column.counts) + bins[: n_blocks * BLOCK]
    blocks = np.bincount(cells, minlength=n_blocks * len(column.counts)).reshape(n_blocks, len(column.counts))
    return np.concatenate([np.zeros_like(blocks[:1]), np.cumsum(blocks, axis=0)])


def _dependence(name: str, up_to: NDArray[np.int64], means: Sequence[float]) -> list[float]:
    """By size, the mean of a statistic in windows of rows in a row over its mean in drawn ones; at least 1.

    A window is compared with the rows outside of it. Where fewer than `MIN_WINDOWS` of a size fit, the effect is taken
    to grow as it did between the two sizes before.
    """
    effects: list[float] = []
    for size, mean in zip(SIZES, means, strict=True):
        length = size // BLOCK
        if len(up_to) - 1 >= MIN_WINDOWS * length:
            starts = np.arange(0, len(up_to) - length, max(length // 4, 1))
            windows = up_to[starts + length] - up_to[starts]
            seen = float(scaled(name, up_to[-1] - windows, windows).mean())
            effects.append(max(seen / mean, 1.0) if mean else 1.0)
        else:
            growth = effects[-1] / effects[-2] if len(effects) > 1 else 1.0
            effects.append((effects[-1] if effects else 1.0) * max(growth, 1.0))
    return effects
