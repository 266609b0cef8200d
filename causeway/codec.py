"""JSON bytes to one float32 array, and predictions to JSON bytes."""

from __future__ import annotations

import asyncio
import json
import struct
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson

from causeway import errors
from causeway.contract import Array, Contract, Feature, explain_features, explain_rows

FREE_VALUES = 50_000
"""A body with fewer commas than this is decoded whatever the row limit is: it cannot hold the event loop for long."""

PIECE_ROWS = 10_000
"""Rows whose predictions are written at a time: some milliseconds."""


class NeedsSecondReading(Exception):
    """A body has a fault to be named, or fields that need a closer look: by Python's parser, which takes its time."""


class Decoder:
    """POST /predict bodies to arrays, for one contract.

    The contract is compiled into msgspec's types, so that decoding checks width, names, ranges and whole numbers. What
    msgspec refuses is read a second time, by Python's own parser, to name the first fault.
    """

    def __init__(self, contract: Contract) -> None:
        self.contract = contract
        values = [_value_type(feature) for feature in contract.features]
        names = [f"f{column}" for column in range(contract.width)]
        row = msgspec.defstruct(
            "Row",
            list(zip(names, values, strict=True)),
            rename=dict(zip(names, contract.names, strict=True)),
            forbid_unknown_fields=True,
            gc=False,
        )
        features_type: Any = list[tuple[tuple(values)]]  # type: ignore[misc]
        body = msgspec.defstruct(
            "Body",
            [("features", features_type | None, None), ("rows", list[row] | None, None)],  # type: ignore[valid-type]
        )
        self._width = contract.width
        self._pack = struct.Struct(f"={contract.width}f").pack
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(body).decode

    def __call__(self, body: bytes, max_rows: int, *, reads_twice: bool = True) -> Array:
        """The rows of `body` as an (n_rows, contract.width) float32 array.

        Raises the `Refusal` that names the first fault, with row and column where it has them; or, where it may not
        read the body twice to find that, `NeedsSecondReading`.
        """
        # Counted first: the time and memory of decoding go by the number of values, and nothing can interrupt it.
        if len(body) > FREE_VALUES and body.count(b",") > max(max_rows * (self.contract.n_commas + 1), FREE_VALUES):
            raise errors.TooManyRows(max_rows)
        try:
            request = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            if not reads_twice:
                raise NeedsSecondReading from None
            raise _explain(_parse(body), self.contract, max_rows) from None
        features, rows = request.features, request.rows
        if body.count(b":") > (len(rows) * self._width + 1 if rows else 1):
            if not reads_twice:
                raise NeedsSecondReading
            _parse(body)  # a name is given twice, or there are fields that msgspec skips
        if not features or rows is not None or len(features) > max_rows:
            _check_fields(features, rows, max_rows)
            features = features if rows is None else [msgspec.structs.astuple(row) for row in rows]
            if not features:
                raise errors.NoRows()
        pack = self._pack
        # In a third of the time that np.array takes for many rows.
        packed = pack(*features[0]) if len(features) == 1 else b"".join([pack(*row) for row in features])
        return np.ndarray((len(features), self._width), np.float32, packed)


def _value_type(feature: Feature) -> Any:
    low, high = feature.reach
    return Annotated[float, msgspec.Meta(ge=low, le=high, multiple_of=1.0 if feature.dtype == "integer" else None)]


def to_array(
    features: list[list[float]] | None, rows: list[dict[str, float]] | None, contract: Contract, max_rows: int
) -> Array:
    """One of `features` and `rows` as an (n_rows, contract.width) float32 array; refuses like `Decoder`."""
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


class Encoder:
    """Predictions to the 200 answer of one version in one role, the same object as `answer`, as JSON."""

    def __init__(self, model_version: str, variant: str) -> None:
        names = (orjson.dumps(name).replace(b"%", b"%%") for name in (model_version, variant))
        form = b'{"predictions":%%b,"model_version":%b,"latency_ms":%%.3f,"request_id":%%b,"variant":%b}'
        self._form = form % tuple(names)

    def __call__(self, predictions: Array, request_id: str, latency_ms: float) -> bytes:
        """The answer; each prediction is the shortest decimal that reads back as the same 32-bit float."""
        rows = orjson.dumps(predictions, option=orjson.OPT_SERIALIZE_NUMPY)
        return self._form % (rows, latency_ms, orjson.dumps(request_id))

    async def large(self, predictions: Array, request_id: str, latency_ms: float) -> bytes:
        """The same for many rows; other requests go on between pieces of it."""
        pieces = []
        for start in range(0, len(predictions), PIECE_ROWS):
            pieces.append(encode(predictions[start : start + PIECE_ROWS])[1:-1])
            await asyncio.sleep(0)
        return self._form % (b"[" + b",".join(pieces) + b"]", latency_ms, orjson.dumps(request_id))


def encode(predictions: Array) -> bytes:
    """(n_rows, output width) as a JSON array of arrays."""
    return orjson.dumps(predictions, option=orjson.OPT_SERIALIZE_NUMPY)


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
