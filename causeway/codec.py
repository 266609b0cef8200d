"""JSON bytes to one float32 array, and predictions to JSON bytes."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import orjson

from causeway import errors
from causeway.contract import Array, Contract, explain_features, explain_rows


class _Body(msgspec.Struct):
    features: list[list[float]] | None = None
    rows: list[dict[str, float]] | None = None


_decode = msgspec.json.Decoder(_Body).decode

FREE_VALUES = 50_000
"""A body with fewer commas than this is decoded whatever the row limit is: it cannot hold the event loop for long."""


def decode(body: bytes, contract: Contract, max_rows: int) -> Array:
    """The rows of a POST /predict body as an (n_rows, contract.width) float32 array.

    Raises the `Refusal` that names the first fault, with row and column where it has them.
    """
    # Counted first: the time and memory of decoding go by the number of values, and nothing can interrupt it.
    if body.count(b",") > max(max_rows * (contract.n_commas + 1), FREE_VALUES):
        raise errors.TooManyRows(max_rows)
    try:
        request = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _explain(_parse(body), contract, max_rows) from None
    names = len(request.rows or ()) * contract.width + 1
    if body.count(b":") > names:  # a name is given twice, or there are fields that msgspec skips
        _parse(body)
    return to_array(request.features, request.rows, contract, max_rows)


def to_array(
    features: list[list[float]] | None, rows: list[dict[str, float]] | None, contract: Contract, max_rows: int
) -> Array:
    """One of `features` and `rows` as an (n_rows, contract.width) float32 array; refuses like `decode`."""
    _check_fields(features, rows, max_rows)
    return contract.from_features(features) if features is not None else contract.from_rows(rows or [])


def answer(
    predictions: Array | list[list[float]], model_version: str, variant: str, request_id: str, latency_ms: float
) -> dict[str, Any]:
    """The 200 answer as an object; `predictions` is (n_rows, output width)."""
    return {
        "predictions": predictions,
        "model_version": model_version,
        "latency_ms": round(latency_ms, 3),
        "request_id": request_id,
        "variant": variant,
    }


def encode(answer: dict[str, Any]) -> bytes:
    """`answer` as JSON; each prediction is the shortest decimal that reads back as the same 32-bit float."""
    return orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)


def _explain(value: Any, contract: Contract, max_rows: int) -> errors.Refusal:
    """The refusal for the `value` of a body that msgspec does not decode."""
    if not isinstance(value, dict):
        return errors.BodyNotAnObject()
    features, rows = value.get("features"), value.get("rows")
    _check_fields(features, rows, max_rows)
    fault = explain_features(contract, features) if features is not None else explain_rows(contract, rows)
    # Rows without a fault: what is not JSON stands elsewhere in the body.
    return fault or errors.BodyNotJson()


def _check_fields(features: object, rows: object, max_rows: int) -> None:
    """Raises unless there is exactly one of `features` and `rows`, without too many rows."""
    if features is not None and rows is not None:
        raise errors.FeaturesAmbiguous()
    given = rows if features is None else features
    if given is None:
        raise errors.FeaturesMissing()
    if isinstance(given, list) and len(given) > max_rows:
        raise errors.TooManyRows(max_rows, len(given))


def _parse(body: bytes) -> Any:
    """The body by Python's own parser, which also reads NaN, Infinity and 1e400, so that they can be named.

    Raises `BodyNotJson`, or `NameRepeated`: parsers differ in which of the two values they take.
    """
    try:
        return _PYTHON_DECODER.decode(body.decode())
    except (ValueError, RecursionError):
        raise errors.BodyNotJson() from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise errors.NameRepeated()
    return value


# Integers as floats: Python refuses to read an integer of more than 4 300 digits.
_PYTHON_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=float)
