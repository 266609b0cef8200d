"""What a model takes and gives: named features with hard ranges in, named predictions out.

`Contract.from_features` and `Contract.from_rows` turn a request's rows into one float32 array or raise the
refusal that names the row and the column. They are the only way into a model, in training and in serving.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from causeway import errors

Array = NDArray[np.float32]

FLOAT32_MAX = float(np.finfo(np.float32).max)

PRECISION_TOLERANCE: Mapping[str, float] = {"fp32": 1e-5, "fp16": 2e-3, "int8": 5e-3}
"""`Output.tolerance` of a model that computes in this precision."""

SUGGESTED_FROM = 100
"""With more names than this, an unknown name is not compared with all of them: it would take too long."""


class Feature(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One named input. `minimum` and `maximum` are inclusive and hard: outside them a request is refused."""

    name: str
    dtype: Literal["float", "integer"] = "float"
    minimum: float = -FLOAT32_MAX
    maximum: float = FLOAT32_MAX
    description: str = ""

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("A feature needs a name")
        if any(character in '"\\' or character < " " for character in self.name):
            raise ValueError(f"{self.name!r}: a name cannot have quotes, backslashes or control characters")
        if self.dtype not in ("float", "integer"):
            raise ValueError(f"{self.name}: dtype must be float or integer, not {self.dtype!r}")
        _check_bounds(self.name, self.minimum, self.maximum)

    @property
    def reach(self) -> tuple[float, float]:
        """Minimum and maximum, or the nearest 32-bit floats where these lie outside: 0.1 as float32 is over 0.1."""
        low, high = float(np.float32(self.minimum)), float(np.float32(self.maximum))
        return min(self.minimum, low), max(self.maximum, high)

    def takes(self, value: float) -> bool:
        """Whether `value` is one that the feature may have; never so for NaN and infinities."""
        low, high = self.reach
        return low <= value <= high and (self.dtype == "float" or value % 1 == 0)


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The prediction: `width` numbers a row, each between `minimum` and `maximum`."""

    name: str
    width: int = 1
    minimum: float = 0.0
    maximum: float = 1.0
    description: str = ""
    tolerance: float = PRECISION_TOLERANCE["fp32"]
    """Largest absolute difference of a prediction between batches, engines and machines."""

    def __post_init__(self) -> None:
        if not self.name or self.width < 1:
            raise ValueError("An output needs a name and a width of at least 1")
        if not 0 <= self.tolerance <= FLOAT32_MAX:
            raise ValueError(f"{self.name}: tolerance must be a number from 0 on")
        _check_bounds(self.name, self.minimum, self.maximum)


def _check_bounds(name: str, minimum: float, maximum: float) -> None:
    if not -FLOAT32_MAX <= minimum <= maximum <= FLOAT32_MAX:
        raise ValueError(f"{name}: minimum and maximum must be ordered and within 32-bit floats")


class Contract(msgspec.Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """Features in their order, and the output."""

    features: tuple[Feature, ...]
    output: Output

    def __post_init__(self) -> None:
        names = [feature.name for feature in self.features]
        if not names:
            raise ValueError("A contract needs at least one feature")
        if len(set(names)) < len(names):
            raise ValueError(f"Feature names repeat: {sorted({name for name in names if names.count(name) > 1})}")

    @property
    def width(self) -> int:
        """Number of features."""
        return len(self.features)

    def narrower_than(self, other: Contract) -> str | None:
        """What `other` takes or gives and this one does not, in words; None where requests may go to either."""
        if self.names != other.names:
            missing = sorted(set(other.names) ^ set(self.names))
            return f"its features are others, or in another order{': ' if missing else ''}{', '.join(missing)}"
        for mine, theirs in zip(self.features, other.features, strict=True):
            if mine.dtype == "integer" and theirs.dtype == "float":
                return f"{mine.name} must be a whole number"
            if mine.minimum > theirs.minimum or mine.maximum < theirs.maximum:
                mine_spans, theirs_spans = (f"{f.minimum:.15g} to {f.maximum:.15g}" for f in (mine, theirs))
                return f"{mine.name} may be {mine_spans}, not {theirs_spans}"
        if (self.output.name, self.output.width) != (other.output.name, other.output.width):
            return (
                f"it predicts {self.output.name} ({self.output.width}), not {other.output.name} ({other.output.width})"
            )
        return None

    @cached_property
    def n_commas(self) -> int:
        """Commas in a row by name, at most."""
        return self.width + sum(name.count(",") for name in self.names)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Feature names in contract order."""
        return tuple(feature.name for feature in self.features)

    def to_json(self) -> bytes:
        """The contract as contract.json holds it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @staticmethod
    def from_json(data: bytes) -> Contract:
        """The contract in `data`; raises `msgspec.ValidationError` or `msgspec.DecodeError` with the place."""
        return msgspec.json.decode(data, type=Contract)

    def from_features(self, features: Sequence[Sequence[float]]) -> Array:
        """Rows of numbers in contract order as an (n_rows, width) float32 array.

        Raises the `BadRequest` that names the first row and column at fault.
        """
        if not features:
            raise errors.NoRows()
        try:
            values = np.array(features, dtype=np.float64)
        except (ValueError, TypeError, OverflowError):
            raise explain_features(self, features) or errors.FeaturesNot2D() from None
        if values.ndim != 2 or values.shape[1] != self.width:
            raise explain_features(self, features) or errors.FeaturesNot2D()
        return self.from_array(values)

    def from_rows(self, rows: Sequence[Mapping[str, float]]) -> Array:
        """Rows by name as an (n_rows, width) float32 array; each row has all names of the contract and no other.

        Raises the `BadRequest` that names the first row and column at fault.
        """
        if not rows:
            raise errors.NoRows()
        names = self.names
        try:
            if any(len(row) != self.width for row in rows):
                raise explain_rows(self, rows) or errors.RowsNotObjects()
            values = np.array([[row[name] for name in names] for row in rows], dtype=np.float64)
        except (KeyError, TypeError, ValueError, OverflowError):
            raise explain_rows(self, rows) or errors.RowsNotObjects() from None
        return self.from_array(values)

    def from_array(self, values: NDArray[np.floating[Any]]) -> Array:
        """An (n_rows, width) array of any float type, checked against the hard ranges, as float32.

        Raises `NotFinite`, `OutOfRange` or `NotAnInteger` for the first value at fault, in reading order.
        """
        minimum, maximum, fractions = self._bounds
        good = (values >= minimum) & (values <= maximum) & (fractions | (np.floor(values) == values))
        if not good.all():
            row, column = (int(i) for i in np.argwhere(~good)[0])
            raise self.fault(row, column, float(values[row, column]))
        return values.astype(np.float32)

    @cached_property
    def _bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Of each column: the least value, the greatest, and whether it may have a fractional part."""
        minimum, maximum = np.array([feature.reach for feature in self.features]).T
        fractions = np.array([feature.dtype == "float" for feature in self.features])
        return minimum, maximum, fractions

    def fault(self, row: int, column: int, value: float) -> errors.BadRequest:
        """The refusal for a number that its feature does not take."""
        feature = self.features[column]
        if not math.isfinite(value):
            return errors.NotFinite(row, column, feature.name)
        low, high = feature.reach
        if not low <= value <= high:
            return errors.OutOfRange(row, column, feature.name, feature.minimum, feature.maximum)
        return errors.NotAnInteger(row, column, feature.name)


def explain_features(contract: Contract, features: object) -> errors.BadRequest | None:
    """The refusal for the first fault of `features`, as decoded from JSON without a schema; None without a fault.

    Faults of the shape come before faults of a value; either kind in reading order.
    """
    if not isinstance(features, list):
        return errors.FeaturesNot2D()
    if not features:
        return errors.NoRows()
    for row, values in enumerate(features):
        if not isinstance(values, list) or any(isinstance(value, list) for value in values):
            return errors.FeaturesNot2D(row)
    for row, values in enumerate(features):
        if len(values) != len(features[0]):
            return errors.RaggedRows(row, len(features[0]), len(values))
    if len(features[0]) != contract.width:
        return errors.WrongWidth(contract.width, len(features[0]))
    faults = (
        _explain_value(contract, row, column, value)
        for row, values in enumerate(features)
        for column, value in enumerate(values)
    )
    return next(filter(None, faults), None)


def explain_rows(contract: Contract, rows: object) -> errors.BadRequest | None:
    """The refusal for the first fault of `rows`, as decoded from JSON without a schema; None without a fault.

    Row by row: first a name that the contract does not know, then what its columns lack or hold, in contract order.
    """
    if not isinstance(rows, list):
        return errors.RowsNotObjects()
    if not rows:
        return errors.NoRows()
    known = frozenset(contract.names)
    for row, values in enumerate(rows):
        if not isinstance(values, Mapping):
            return errors.RowsNotObjects(row)
        unknown = next((name for name in values if name not in known), None)
        if unknown is not None:
            return errors.UnknownName(row, _suggestion(contract, unknown))
        for column, name in enumerate(contract.names):
            if name not in values:
                return errors.MissingName(row, column, name)
            fault = _explain_value(contract, row, column, values[name])
            if fault:
                return fault
    return None


def _suggestion(contract: Contract, unknown: str) -> str | None:
    """The name that was probably meant, whatever its case."""
    if contract.width > SUGGESTED_FROM:
        return None
    names = {name.upper(): name for name in contract.names}
    close = difflib.get_close_matches(unknown[:100].upper(), names, 1)
    return names[close[0]] if close else None


_JSON_TYPES = {str: "a string", bool: "a boolean", type(None): "null", list: "an array", dict: "an object"}


def _explain_value(contract: Contract, row: int, column: int, value: object) -> errors.BadRequest | None:
    feature = contract.features[column]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return errors.NotANumber(row, column, feature.name, _JSON_TYPES.get(type(value), "something else"))
    if feature.takes(value):
        return None
    try:
        return contract.fault(row, column, float(value))
    except OverflowError:
        return errors.NotFinite(row, column, feature.name)
