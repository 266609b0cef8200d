"""Some hundred predictions as one piece of bytes: what the recorder packs and the keeper unpacks.

Column by column: the features, the scores, the rest in MessagePack, and the length of that. 0.15 us a prediction; large
features are not copied.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Mapping, Sequence
from operator import mul
from typing import NamedTuple, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from causeway.contract import Array

Answer = tuple[Array, Array, tuple[str, str], bool, str | None, tuple[float, float, float, float]]
"""What a request was answered with: X (n_rows, n_features) and predictions (n_rows, output width) as float32, role and
tag of the variant, whether it was asked for by its tag, routing key, seconds (decode, queue, compute, encode)."""

PINNED = "pinned"
"""The role, in the log, of a version that was asked for by its tag: such a request says nothing of the shares."""

RefusedValue = tuple[str, str, str]
"""Tag, feature and reason (missing, out_of_range, not_a_number) of a value for which a request was refused."""

Payload = Sequence[bytes | bytearray | memoryview]
"""The bytes of a batch, in pieces."""

LARGE_BYTES = 32 * 1024
"""Features with more of them are not copied, which would hold up the event loop, and not kept waiting."""

_HEAD_BYTES = struct.Struct("<I")

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


class _Packed(msgspec.Struct, array_like=True):
    """A batch as it is written, without features and predictions."""

    factor: int
    clock: float
    """What `time.perf_counter` lacks to seconds since 1970."""
    request_ids: Sequence[str]
    variants: Sequence[tuple[str, str, int, int]]
    """The different ones: role, tag, number of features, output width."""
    places: Sequence[int]
    """The variant of each request among these; nothing where there is one."""
    n_rows: Sequence[int]
    numbers: bytes
    routing_keys: Sequence[str | None]
    trace_ids: Sequence[str | None]
    refused: Sequence[tuple[RefusedValue, int]]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode


class Columns:
    """Answered requests on their way into the log, column by column, as bytes: what they were made of is let go of at
    once, unless the features are large. To hold the objects of some hundred requests costs more than to copy them."""

    __slots__ = (
        "_before",
        "_facts",
        "_features",
        "_last",
        "_predictions",
        "_request_ids",
        "_widths",
        "n_bytes",
        "n_rows",
    )

    def __init__(self) -> None:
        self.n_rows = 0
        """Of all requests together."""
        self.n_bytes = 0
        """Of their features."""
        self._request_ids: list[str] = []
        self._features = bytearray()
        self._predictions = bytearray()
        self._before: list[bytearray | memoryview] = []
        """Pieces that come before these features."""
        self._facts: list[tuple[int, tuple[str, str], str | None, str | None]] = []
        """Of each: its rows, role and tag, routing key and trace id."""
        self._widths: dict[tuple[str, str], tuple[int, int]] = {}
        """Number of features and output width, by role and tag."""
        self._last: tuple[str, str] | None = None

    def __len__(self) -> int:
        return len(self._request_ids)

    def add(self, request_id: str, answer: Answer, trace_id: str | None) -> None:
        """Takes one."""
        X, predictions, variant, is_pinned, routing_key, _ = answer
        if is_pinned:
            variant = (PINNED, variant[1])
        if variant is not self._last:
            self._last = variant
            self._widths[variant] = X.shape[1], predictions.shape[1]
        self._request_ids.append(request_id)
        n_rows, n_bytes = len(X), X.nbytes
        self.n_rows += n_rows
        self.n_bytes += n_bytes
        if n_bytes > LARGE_BYTES:
            self._before += self._features, np.ascontiguousarray(X).view(np.uint8).reshape(-1).data
            self._features = bytearray()
        else:
            self._features += X.tobytes()
        self._predictions += predictions.tobytes()  # always: they may be part of a batch's
        self._facts.append((n_rows, variant, routing_key, trace_id))

    def pack(
        self, numbers: NDArray[np.float64], refused: Mapping[RefusedValue, int], *, factor: int, clock: float
    ) -> Payload:
        """The bytes of a batch.

        numbers: (n, 6), of each request when it began on `time.perf_counter`, and its `Seconds`. clock: what that lacks
        to seconds since 1970.
        """
        n_rows, variants, routing_keys, trace_ids = zip(*self._facts, strict=True) if self._facts else ((),) * 4
        places = {variant: place for place, variant in enumerate(self._widths)}
        packed = _Packed(
            factor,
            clock,
            self._request_ids,
            [(*variant, *widths) for variant, widths in self._widths.items()],
            [places[variant] for variant in variants] if len(places) > 1 else (),
            n_rows,
            numbers.tobytes(),
            routing_keys,
            trace_ids,
            list(refused.items()),
        )
        head = _encode(packed)
        return *self._before, self._features, self._predictions, head, _HEAD_BYTES.pack(len(head))


def unpack(payload: bytes) -> Batch:
    """The batch in these bytes. Raises `msgspec.DecodeError`, `struct.error` or `ValueError` where it is none."""
    end = len(payload) - _HEAD_BYTES.size
    (head_bytes,) = _HEAD_BYTES.unpack_from(payload, end)
    packed = _decode(memoryview(payload)[end - head_bytes : end])
    n = len(packed.request_ids)
    variants = [packed.variants[place] for place in packed.places or [0] * n]
    widths = [width for _, _, width, _ in variants], [width for _, _, _, width in variants]
    values = np.frombuffer(memoryview(payload)[: end - head_bytes], dtype=np.float32)
    n_features = sum(map(mul, packed.n_rows, widths[0]))
    columns = (
        packed.request_ids,
        variants,
        _cut(values[:n_features], packed.n_rows, widths[0]),
        _cut(values[n_features:], packed.n_rows, widths[1]),
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


def _cut(values: Array, n_rows: Sequence[int], widths: Sequence[int]) -> list[Array]:
    arrays, start = [], 0
    for n, width in zip(n_rows, widths, strict=True):
        end = start + n * width
        arrays.append(values[start:end].reshape(n, width))
        start = end
    return arrays
