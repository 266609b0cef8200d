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


def decode(body: bytes, contract: Contract, max_rows: int) -> Array:
    """The rows of a POST /predict body as an (n_rows, contract.width) float32 array.

    Raises the `Refusal` that names the first fault, with row and column where it has them.
    """
    try:
        request = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _explain(body, contract, max_rows) from None
    return to_array(request.features, request.rows, contract, max_rows)


def to_array(
    features: list[list[float]] | None, rows: list[dict[str, float]] | None, contract: Contract, max_rows: int
) -> Array:
    """One of `features` and `rows` as an (n_rows, contract.width) float32 array; refuses like `decode`."""
    if features is not None and rows is not None:
        raise errors.FeaturesAmbiguous()
    given = features if features is not None else rows
    if given is None:
        raise errors.FeaturesMissing()
    if len(given) > max_rows:
        raise errors.TooManyRows(max_rows, len(given))
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


def _explain(body: bytes, contract: Contract, max_rows: int) -> errors.Refusal:
    """The refusal for a body that does not decode.

    Python's own parser reads what strict JSON does not allow (NaN, Infinity, 1e400), so that it can be named.
    """
    try:
        value: Any = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return errors.BodyNotJson()
    if not isinstance(value, dict):
        return errors.BodyNotAnObject()
    features, rows = value.get("features"), value.get("rows")
    if features is not None and rows is not None:
        return errors.FeaturesAmbiguous()
    given = features if features is not None else rows
    if given is None:
        return errors.FeaturesMissing()
    if isinstance(given, list) and len(given) > max_rows:
        return errors.TooManyRows(max_rows, len(given))
    fault = explain_features(contract, features) if features is not None else explain_rows(contract, rows)
    # Rows without a fault: what is not JSON stands elsewhere in the body.
    return fault or errors.BodyNotJson()
