"""Hyper-parameters from the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import msgspec

from causeway.errors import InvalidParam


def parse_params(params: type[Any], assignments: Sequence[str]) -> Any:
    """An instance of the frozen dataclass `params` with `NAME=VALUE` assignments in place of its defaults.

    Raises `InvalidParam` for a name it does not have, or a value that is not of the field's type.
    """
    known = {field.name for field in dataclasses.fields(params)}
    values: dict[str, str] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        if not equals or name not in known:
            raise InvalidParam(f"No hyper-parameter in {assignment!r}; there are: {', '.join(sorted(known))}")
        values[name] = value
    try:
        return msgspec.convert({**dataclasses.asdict(params()), **values}, params, strict=False)
    except (msgspec.ValidationError, ValueError) as exc:
        raise InvalidParam(f"Hyper-parameters: {exc}") from exc
