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
        if not -FLOAT32_MAX <= self.minimum <= self.maximum <= FLOAT32_MAX:
            raise ValueError(f"{self.name}: minimum and maximum must be ordered and within 32-bit floats")


class Output(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The prediction: `width` numbers a row, each between `minimum` and `maximum`."""

    name: str
    width: int = 1
    minimum: float = 0.0
    maximum: float = 1.0
    description: str = ""


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
        minimum, maximum, integers = self._bounds
        inside = (values >= minimum) & (values <= maximum)
        if not inside.all():
            row, column = (int(i) for i in np.argwhere(~inside)[0])
            feature = self.features[column]
            if not math.isfinite(values[row, column]):
                raise errors.NotFinite(row, column, feature.name)
            raise errors.OutOfRange(row, column, feature.name, feature.minimum, feature.maximum)
        if integers.size:
            fractional = values[:, integers] % 1 != 0
            if fractional.any():
                row, which = (int(i) for i in np.argwhere(fractional)[0])
                column = int(integers[which])
                raise errors.NotAnInteger(row, column, self.names[column])
        return values.astype(np.float32)

    @cached_property
    def _bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp]]:
        minimum = np.array([feature.minimum for feature in self.features])
        maximum = np.array([feature.maximum for feature in self.features])
        integers = np.array([i for i, feature in enumerate(self.features) if feature.dtype == "integer"], dtype=np.intp)
        return minimum, maximum, integers


def explain_features(contract: Contract, features: object) -> errors.BadRequest | None:
    """The refusal for the first fault of `features`, as decoded from JSON without a schema; None without a fault."""
    if not isinstance(features, list):
        return errors.FeaturesNot2D()
    if not features:
        return errors.NoRows()
    for row, values in enumerate(features):
        if not isinstance(values, list):
            return errors.FeaturesNot2D(row)
    for row, values in enumerate(features):
        if len(values) != len(features[0]):
            return errors.RaggedRows(row, len(features[0]), len(values))
    if len(features[0]) != contract.width:
        return errors.WrongWidth(contract.width, len(features[0]))
    for row, values in enumerate(features):
        if any(isinstance(value, list) for value in values):
            return errors.FeaturesNot2D(row)
        for column, value in enumerate(values):
            fault = _explain_value(contract, row, column, value)
            if fault:
                return fault
    return None


def explain_rows(contract: Contract, rows: object) -> errors.BadRequest | None:
    """The refusal for the first fault of `rows`, as decoded from JSON without a schema; None without a fault."""
    if not isinstance(rows, list):
        return errors.RowsNotObjects()
    if not rows:
        return errors.NoRows()
    for row, values in enumerate(rows):
        if not isinstance(values, Mapping):
            return errors.RowsNotObjects(row)
        unknown = next((name for name in values if name not in contract.names), None)
        if unknown is not None:
            close = difflib.get_close_matches(str(unknown)[:100].upper(), [name.upper() for name in contract.names], 1)
            suggestion = next((name for name in contract.names if close and name.upper() == close[0]), None)
            return errors.UnknownName(row, suggestion)
        for column, name in enumerate(contract.names):
            if name not in values:
                return errors.MissingName(row, column, name)
            fault = _explain_value(contract, row, column, values[name])
            if fault:
                return fault
    return None


_JSON_TYPES = {str: "a string", bool: "a boolean", type(None): "null", list: "an array", dict: "an object"}


def _explain_value(contract: Contract, row: int, column: int, value: object) -> errors.BadRequest | None:
    feature = contract.features[column]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return errors.NotANumber(row, column, feature.name, _JSON_TYPES.get(type(value), "something else"))
    try:
        number = float(value)
    except OverflowError:
        return errors.NotFinite(row, column, feature.name)
    if not math.isfinite(number):
        return errors.NotFinite(row, column, feature.name)
    if not feature.minimum <= number <= feature.maximum:
        return errors.OutOfRange(row, column, feature.name, feature.minimum, feature.maximum)
    return None
