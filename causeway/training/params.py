"""Hyper-parameters from the command line."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Sequence
from typing import Any

import msgspec

from causeway.errors import InvalidParam

_KINDS = {int: "a whole number", float: "a number", bool: "true or false"}


def parse_params(params: type[Any], assignments: Sequence[str]) -> Any:
    """An instance of the frozen dataclass `params` with `NAME=VALUE` assignments in place of its defaults.

    Raises `InvalidParam` for a name it does not have, or a value that is not of the field's type.
    """
    kinds = typing.get_type_hints(params)
    known = [field.name for field in dataclasses.fields(params)]
    values = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals:
            raise InvalidParam(f"--set {assignment}: write it as NAME=VALUE")
        if name not in known:
            raise InvalidParam(f"--set {assignment}: no such hyper-parameter{_hint(name, known)}")
        values[name] = _value(assignment, kinds[name], value)
    try:
        return params(**values)
    except ValueError as exc:
        raise InvalidParam(f"--set {' '.join(assignments)}: {exc}") from exc


def _value(assignment: str, kind: Any, value: str) -> Any:
    try:
        return msgspec.convert(value, kind, strict=False)
    except msgspec.ValidationError as exc:
        raise InvalidParam(f"--set {assignment}: the value must be {_KINDS.get(kind, kind)}") from exc


def _hint(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else f"; there are: {', '.join(known)}"
