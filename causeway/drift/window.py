"""What a stretch of traffic looked like: counts on the reference's bins, moments, and what was refused."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import msgspec
import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Window:
    """Rows by column (the features in contract order, then the output); windows of one reference can be added."""

    rows: int
    """Rows that were scored."""
    counts: tuple[Counts, ...]
    """Per column (n_bins,) rows by bin."""
    sums: Floats
    """(n_columns,) sums of the values."""
    squares: Floats
    """(n_columns,) sums of the squared values."""
    missing: Counts
    """(n_columns,) rows refused because this value was missing or no number; scores that were NaN or infinite."""
    out_of_range: Counts
    """(n_columns,) rows refused because this value was outside of the contract's range; 0 for the output."""

    def __add__(self, other: Window) -> Window:
        """What both together looked like. Raises `ValueError` where their bins are not the same."""
        if [len(counts) for counts in self.counts] != [len(counts) for counts in other.counts]:
            raise ValueError("windows of different references cannot be added")
        return Window(
            self.rows + other.rows,
            tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)),
            self.sums + other.sums,
            self.squares + other.squares,
            self.missing + other.missing,
            self.out_of_range + other.out_of_range,
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Window) and self.to_json() == other.to_json()

    def to_json(self) -> bytes:
        """One object of plain numbers and lists, as short as it can be."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return msgspec.json.encode(values, enc_hook=np.ndarray.tolist)

    @staticmethod
    def from_json(data: bytes | str) -> Window:
        """The window in `data`. Raises `msgspec.DecodeError` where it holds none."""
        plain = msgspec.json.decode(data, type=_Plain)
        return Window(
            plain.rows,
            tuple(np.array(counts, dtype=np.int64) for counts in plain.counts),
            np.array(plain.sums, dtype=np.float64),
            np.array(plain.squares, dtype=np.float64),
            np.array(plain.missing, dtype=np.int64),
            np.array(plain.out_of_range, dtype=np.int64),
        )

    @cached_property
    def means(self) -> Floats:
        """(n_columns,) means of the values; NaN for a column without any."""
        return self._per_value(self.sums)

    @cached_property
    def standard_deviations(self) -> Floats:
        """(n_columns,) standard deviations of the values; NaN for a column without any."""
        deviations: Floats = np.sqrt(np.maximum(self._per_value(self.squares) - self.means**2, 0.0))
        return deviations

    @cached_property
    def n_values(self) -> Counts:
        """(n_columns,) values that were counted: the rows, less scores that were not finite."""
        return np.array([counts.sum() for counts in self.counts], dtype=np.int64)

    def _per_value(self, totals: Floats) -> Floats:
        means: Floats = np.divide(totals, self.n_values, out=np.full(len(totals), np.nan), where=self.n_values > 0)
        return means


class _Plain(msgspec.Struct):
    """A window as JSON has it."""

    rows: int
    counts: list[list[int]]
    sums: list[float]
    squares: list[float]
    missing: list[int]
    out_of_range: list[int]
