"""What drift is measured against: bins, counts, moments and thresholds of every column, fixed at training.

Two samples are counted on the same bins. *Drift* is measured against the held-out rows: they are the latest that are
known, the model's figures were measured on them, and only for them are the scores those that new rows would get.
*Training-serving skew* is measured against the training rows, whose features the model learnt from; their scores are
left out, because a model scores the rows that it was fitted to as no others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from causeway import errors
from causeway.contract import Array
from causeway.drift.statistics import effective_rows
from causeway.drift.window import Window

SIZES = (250, 1_000, 4_000, 16_000, 64_000)
"""Rows of the windows that thresholds are calibrated for."""

MIN_ROWS = SIZES[0]
"""With fewer rows in a window no statistic alarms."""


TELLING_ROWS = SIZES[1]
"""Of the smallest shift that is worth an alarm: what windows of so many independent rows show."""

_INDEPENDENT = [1.0] * len(SIZES)


class Column(msgspec.Struct, frozen=True, omit_defaults=True, dict=True):
    """One feature, or the output, as it was at training.

    Bin i holds edges[i-1] < x <= edges[i]. The first and the last bin are open and hold what is less and what is more
    than all that was seen at training.
    """

    name: str
    edges: list[float]
    counts: list[int]
    """Held-out rows by bin."""
    mean: float
    standard_deviation: float
    minimum: float
    """Of held-out and training rows, as is `maximum`."""
    maximum: float
    training_counts: list[int] | None = None
    """Training rows by bin; None for the output."""
    is_few_valued: bool = False
    """So few distinct values that chi-squared is measured too."""
    thresholds: dict[str, list[float]] = {}
    """By statistic, what `statistics.scaled` hardly ever exceeds in windows of `SIZES`; none if not calibrated."""
    dependence: dict[str, list[float]] = {}
    """By statistic and size, how much more windows of rows in a row vary than drawn ones; in the thresholds already."""

    def __post_init__(self) -> None:
        counted = [self.counts, *([] if self.training_counts is None else [self.training_counts])]
        if any(len(counts) != len(self.edges) + 1 for counts in counted):
            raise ValueError(f"{self.name}: counts must be one more than edges")
        if any(len(values) != len(SIZES) for values in (*self.thresholds.values(), *self.dependence.values())):
            raise ValueError(f"{self.name}: thresholds must be for {len(SIZES)} sizes")

    @property
    def statistics(self) -> tuple[str, ...]:
        """Names of what is measured."""
        always = ("psi", "ks", "bin_deviance")
        return (*always, "chi_squared") if self.is_few_valued else always

    def threshold(self, statistic: str, rows: int) -> float | None:
        """What the statistic of a window of that many rows hardly ever exceeds while nothing has changed.

        None with fewer than `MIN_ROWS` rows, and where nothing was calibrated. Between `SIZES` it is interpolated by
        the logarithm of the rows. A shift that independent rows would not show in `TELLING_ROWS` does not alarm in
        larger windows either, however sure it is: it is too small to matter.
        """
        if rows < MIN_ROWS or not self.thresholds:
            return None
        of_reference = sum(self.counts)
        logarithms = np.log(SIZES)
        scaled = float(np.interp(math.log(rows), logarithms, self.thresholds[statistic]))
        effective = effective_rows(of_reference, rows)
        if rows > TELLING_ROWS:
            # What a shift adds to a scaled statistic grows with the effective rows.
            place = SIZES.index(TELLING_ROWS)
            independent = self.thresholds[statistic][place] / self.dependence.get(statistic, _INDEPENDENT)[place]
            scaled = max(scaled, independent * effective / effective_rows(of_reference, TELLING_ROWS))
        if statistic == "psi":
            return float(scaled / effective)
        return math.sqrt(scaled / effective) if statistic == "ks" else float(scaled)

    @cached_property
    def _bounds(self) -> Array:
        return np.array([-np.inf, *self.edges, np.inf], dtype=np.float32)

    def count(self, values: Array) -> NDArray[np.int64]:
        """How many of ascending values are in each bin, (n_bins,)."""
        return np.diff(values.searchsorted(self._bounds, side="right"))


class Reference(msgspec.Struct, frozen=True, dict=True):
    """All columns: the contract's features in their order, then the output."""

    columns: tuple[Column, ...]
    rate: float | None = None
    """Of windows of rows that are as the held-out ones, the share that alarms in any column, at most; None for a
    version that was saved before alarms were calibrated: its drift is measured, and nothing alarms."""
    is_in_time_order: bool = False
    """Whether the held-out rows had times, so that `Column.dependence` could be measured."""

    def __post_init__(self) -> None:
        if not self.columns:
            raise ValueError("a reference needs columns")

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Of the columns."""
        return tuple(column.name for column in self.columns)

    def to_json(self) -> bytes:
        """The reference as reference.json holds it: a line for each column."""
        columns = b",\n    ".join(msgspec.json.encode(column) for column in self.columns)
        head = {"rate": self.rate, "is_in_time_order": self.is_in_time_order}
        return msgspec.json.encode(head)[:-1] + b',"columns":[\n    ' + columns + b"\n]}\n"

    @staticmethod
    def from_json(data: bytes) -> Reference:
        """The reference in `data`, also as it was saved before there were thresholds. Raises `ReferenceBroken`."""
        try:
            return msgspec.json.decode(data, type=Reference)
        except msgspec.DecodeError as exc:
            return _saved_before(data, exc)

    def count(self, X: Array, scores: NDArray[np.floating[Any]]) -> Window:
        """The window of rows X (n, n_features) float32, none of them NaN, and their scores (n,); n may be 0.

        Scores that are NaN or infinite are `missing`.
        """
        finite = scores[np.isfinite(scores)].astype(np.float32)
        ascending = [*np.sort(X.T), np.sort(finite)]
        missing = np.zeros(len(self.columns), dtype=np.int64)
        missing[-1] = len(scores) - len(finite)
        exact = [values.astype(np.float64) for values in ascending]
        return Window(
            len(X),
            tuple(column.count(values) for column, values in zip(self.columns, ascending, strict=True)),
            np.array([values.sum() for values in exact]),
            np.array([values @ values for values in exact]),
            missing,
            np.zeros_like(missing),
        )

    def empty(self) -> Window:
        """A window without rows, to begin a sum with."""
        return self.count(np.empty((0, len(self.columns) - 1), dtype=np.float32), np.empty(0))

    def refused(self, missing: Mapping[str, int], out_of_range: Mapping[str, int]) -> Window:
        """A window of refused rows: by the feature at fault, how many lacked a number, or had one out of range.

        Raises `KeyError` for a name that is no column.
        """
        window = self.empty()
        place = {name: i for i, name in enumerate(self.names)}
        for into, by_name in ((window.missing, missing), (window.out_of_range, out_of_range)):
            for name, n_rows in by_name.items():
                into[place[name]] += n_rows
        return window


class _Before(msgspec.Struct):
    """A column as versions were saved with before there were thresholds."""

    edges: list[float]
    counts: list[int]
    mean: float
    standard_deviation: float
    minimum: float
    maximum: float


def _saved_before(data: bytes, exc: msgspec.DecodeError) -> Reference:
    """The reference of an older version: the features' counts are of the training rows. Raises `ReferenceBroken`."""
    try:
        before = msgspec.json.decode(data, type=dict[str, _Before])
        return Reference(tuple(_with_open_bins(name, column) for name, column in before.items()))
    except (msgspec.DecodeError, ValueError):
        raise errors.ReferenceBroken(str(exc)) from exc


def _with_open_bins(name: str, before: _Before) -> Column:
    """With bins for what is less and more than was seen, which older versions do not have."""
    below = float(np.nextafter(np.float32(before.minimum), np.float32(-np.inf)))
    return Column(
        name=name,
        edges=[below, *before.edges, before.maximum],
        counts=[0, *before.counts, 0],
        mean=before.mean,
        standard_deviation=before.standard_deviation,
        minimum=before.minimum,
        maximum=before.maximum,
    )
