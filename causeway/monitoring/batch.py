"""Some hundred predictions as one piece of bytes: what the recorder packs and the keeper unpacks.

Column by column, in MessagePack: 0.15 us a prediction.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np

from causeway.contract import Array

Record = tuple[str, float, tuple[str, str], Array, Array, tuple[float, float, float, float], str | None, str | None]
"""One answered request: its id, when it began on `time.perf_counter`, role and tag of the variant, X (n_rows,
n_features) and predictions (n_rows, output width) as float32, seconds (decode, queue, compute, latency), routing key,
trace id."""

RefusedValue = tuple[str, str, str]
"""Tag, feature and reason (missing, out_of_range, not_a_number) of a value for which a request was refused."""

_Item = TypeVar("_Item")


class Prediction(NamedTuple):
    """One answered request, as it was recorded."""

    request_id: str
    time: float
    """When the request began, in seconds since 1970."""
    role: str
    tag: str
    X: Array
    predictions: Array
    seconds: tuple[float, float, float, float]
    """Decode, queue, compute, latency."""
    routing_key: str | None
    trace_id: str | None


class Batch(NamedTuple):
    """What was packed at once."""

    predictions: list[Prediction]
    refused: Mapping[RefusedValue, int]
    factor: int
    """Of so many of each, one was kept, whichever."""

    def thinned(self, factor: int, rng: random.Random) -> Batch:
        """With one of `factor` left, where there are more."""
        if factor <= self.factor:
            return self
        share = self.factor / factor
        return Batch(sample(self.predictions, share, rng), sample_counts(self.refused, share, rng), factor)


class _Packed(msgspec.Struct, array_like=True):
    """A batch as it is written."""

    factor: int
    clock: float
    """What `time.perf_counter` lacks to seconds since 1970."""
    request_ids: Sequence[str]
    started: Sequence[float]
    variants: Sequence[tuple[str, str]]
    shapes: Sequence[tuple[int, int]]
    features: bytes
    output_shapes: Sequence[tuple[int, int]]
    predictions: bytes
    seconds: Sequence[tuple[float, float, float, float]]
    routing_keys: Sequence[str | None]
    trace_ids: Sequence[str | None]
    refused: Sequence[tuple[RefusedValue, int]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack(records: Sequence[Record], refused: Mapping[RefusedValue, int], *, factor: int, clock: float) -> bytes:
    """The bytes of a batch. clock: what `time.perf_counter` lacks to seconds since 1970."""
    columns = zip(*records, strict=True) if records else ((),) * 8
    request_ids, started, variants, X, predictions, seconds, routing_keys, trace_ids = columns
    packed = _Packed(
        factor,
        clock,
        request_ids,
        started,
        variants,
        [x.shape for x in X],
        b"".join(X),
        [p.shape for p in predictions],
        b"".join(predictions),
        seconds,
        routing_keys,
        trace_ids,
        list(refused.items()),
    )
    return _encode(packed)


def unpack(payload: bytes) -> Batch:
    """The batch in these bytes. Raises `msgspec.DecodeError`, or `ValueError`, where it is none."""
    packed = _decode(payload)
    columns = (
        packed.request_ids,
        packed.started,
        packed.variants,
        _cut(packed.features, packed.shapes),
        _cut(packed.predictions, packed.output_shapes),
        packed.seconds,
        packed.routing_keys,
        packed.trace_ids,
    )
    predictions = [
        Prediction(request_id, packed.clock + started, role, tag, X, scores, seconds, routing_key, trace_id)
        for request_id, started, (role, tag), X, scores, seconds, routing_key, trace_id in zip(*columns, strict=True)
    ]
    return Batch(predictions, dict(packed.refused), packed.factor)


def sample(items: Sequence[_Item], share: float, rng: random.Random) -> list[_Item]:
    """That share of the items, drawn without replacement; each has the same chance, which is `share`."""
    wanted = len(items) * share
    n = int(wanted)
    return rng.sample(items, n + (rng.random() < wanted - n))


def sample_counts(counts: Mapping[RefusedValue, int], share: float, rng: random.Random) -> dict[RefusedValue, int]:
    """Counts of what is left where each is kept with the chance `share`."""
    left = {value: sum(rng.random() < share for _ in range(n)) for value, n in counts.items()}
    return {value: n for value, n in left.items() if n}


def _cut(data: bytes, shapes: Sequence[tuple[int, int]]) -> list[Array]:
    values = np.frombuffer(data, dtype=np.float32)
    arrays, start = [], 0
    for n_rows, width in shapes:
        end = start + n_rows * width
        arrays.append(values[start:end].reshape(n_rows, width))
        start = end
    return arrays
