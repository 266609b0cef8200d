"""Some hundred predictions as one piece of bytes: what the recorder packs and the keeper unpacks.

Column by column, in MessagePack: 0.15 us a prediction.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from causeway.contract import Array

Answer = tuple[Array, Array, tuple[str, str], bool, str | None, float, float, float, float]
"""What a request was answered with: X (n_rows, n_features) and predictions (n_rows, output width) as float32, role and
tag of the variant, whether it was asked for by its tag, routing key, seconds (decode, queue, compute, encode)."""

Record = tuple[str, float, float, Answer, str | None]
"""One answered request: its id, when it began on `time.perf_counter`, seconds until it was answered, its answer, and
its trace id. Plain tuples: they are made on the way of every request."""

PINNED = "pinned"
"""The role, in the log, of a version that was asked for by its tag: such a request says nothing of the shares."""

RefusedValue = tuple[str, str, str]
"""Tag, feature and reason (missing, out_of_range, not_a_number) of a value for which a request was refused."""

_Item = TypeVar("_Item")


class Seconds(NamedTuple):
    """Where the time of a request went."""

    latency: float
    """All of it, until the answer was sent."""
    decode: float
    queue: float
    compute: float
    encode: float


NUMBERS = ("started", *Seconds._fields)
"""What is known of a record as a number."""


class Prediction(NamedTuple):
    """One answered request, as it was recorded."""

    request_id: str
    time: float
    """When the request began, in seconds since 1970."""
    role: str
    tag: str
    X: Array
    predictions: Array
    seconds: Seconds
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


class Columns(NamedTuple):
    """Records, column by column."""

    request_ids: Sequence[str]
    X: Sequence[Array]
    predictions: Sequence[Array]
    variants: Sequence[tuple[str, str]]
    are_pinned: Sequence[bool]
    routing_keys: Sequence[str | None]
    trace_ids: Sequence[str | None]
    numbers: NDArray[np.float64]
    """(n, 6): when each began, and seconds: latency, decode, queue, compute, encode."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> Columns:
        """The columns of one record or more."""
        request_ids, started, latencies, answers, trace_ids = zip(*records, strict=True)
        X, predictions, variants, are_pinned, routing_keys, *seconds = zip(*answers, strict=True)
        numbers = np.array([started, latencies, *seconds]).T
        return cls(request_ids, X, predictions, variants, are_pinned, routing_keys, trace_ids, numbers)

    @property
    def n_rows(self) -> int:
        """Of all requests together."""
        return sum(map(len, self.X))

    def take(self, chosen: Sequence[int]) -> Columns:
        """Only those records."""
        *columns, numbers = self
        return type(self)._make([*([column[i] for i in chosen] for column in columns), numbers[chosen]])


class _Packed(msgspec.Struct, array_like=True):
    """A batch as it is written."""

    factor: int
    clock: float
    """What `time.perf_counter` lacks to seconds since 1970."""
    request_ids: Sequence[str]
    variants: Sequence[tuple[str, str, int, int]]
    """The different ones: role, tag, number of features, output width."""
    places: Sequence[int]
    """The variant of each request among these; nothing where there is one."""
    n_rows: Sequence[int]
    features: bytes
    predictions: bytes
    numbers: bytes
    routing_keys: Sequence[str | None]
    trace_ids: Sequence[str | None]
    refused: Sequence[tuple[RefusedValue, int]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


def pack(columns: Columns | None, refused: Mapping[RefusedValue, int], *, factor: int, clock: float) -> bytes:
    """The bytes of a batch. clock: what `time.perf_counter` lacks to seconds since 1970."""
    if columns is None:
        return _encode(_Packed(factor, clock, (), (), (), (), b"", b"", b"", (), (), list(refused.items())))
    variants = columns.variants
    if any(columns.are_pinned):
        pinned = zip(variants, columns.are_pinned, strict=True)
        variants = [(PINNED, tag) if is_pinned else (role, tag) for (role, tag), is_pinned in pinned]
    different = {variant: place for place, variant in enumerate(dict.fromkeys(variants))}
    widths = dict(zip(variants, zip(columns.X, columns.predictions, strict=True), strict=True))
    packed = _Packed(
        factor,
        clock,
        columns.request_ids,
        [(*variant, *(array.shape[1] for array in widths[variant])) for variant in different],
        [different[variant] for variant in variants] if len(different) > 1 else (),
        list(map(len, columns.X)),
        b"".join(columns.X),  # type: ignore[arg-type]
        b"".join(columns.predictions),  # type: ignore[arg-type]
        columns.numbers.tobytes(),
        columns.routing_keys,
        columns.trace_ids,
        list(refused.items()),
    )
    return _encode(packed)


def unpack(payload: bytes) -> Batch:
    """The batch in these bytes. Raises `msgspec.DecodeError`, or `ValueError`, where it is none."""
    packed = _decode(payload)
    n = len(packed.request_ids)
    variants = [packed.variants[place] for place in packed.places or [0] * n]
    columns = (
        packed.request_ids,
        variants,
        _cut(packed.features, packed.n_rows, [width for _, _, width, _ in variants]),
        _cut(packed.predictions, packed.n_rows, [width for _, _, _, width in variants]),
        np.frombuffer(packed.numbers).reshape(n, len(NUMBERS)).tolist(),
        packed.routing_keys,
        packed.trace_ids,
    )
    predictions = [
        Prediction(request_id, packed.clock + started, role, tag, X, scores, Seconds(*seconds), routing_key, trace_id)
        for request_id, (role, tag, _, _), X, scores, (started, *seconds), routing_key, trace_id in zip(
            *columns, strict=True
        )
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


def _cut(data: bytes, n_rows: Sequence[int], widths: Sequence[int]) -> list[Array]:
    values = np.frombuffer(data, dtype=np.float32)
    arrays, start = [], 0
    for n, width in zip(n_rows, widths, strict=True):
        end = start + n * width
        arrays.append(values[start:end].reshape(n, width))
        start = end
    return arrays
