"""What becomes of each request of a schedule, noted in one block of memory that two processes may share."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

UNSENT = -1
NO_ANSWER = 0
"""In place of a status."""

_N_COUNTS = 2
_FIELDS = "ddddiihbb"
"""Types of the fields in the order of the block; wide ones first, so that each begins where its items may."""


class Record:
    """The fields of a schedule of n requests, as memoryviews: one item of a NumPy array costs several times as much.

    Item i is that of request number i in `due_s`, `place`, `late_s`, `sent_s`, `latency_s`, `status`, `is_wrong` and
    `has_retry_after`, which are what `Offered` says. `finished` has the numbers of the requests of which all is known,
    in the order in which it was; `counts` how many the generator has turned to, and how many are in `finished`.
    """

    def __init__(self, n: int, block: memoryview) -> None:
        self.n = n
        views = _cut(block, (("q", _N_COUNTS), *((code, n) for code in _FIELDS)))
        self.counts: memoryview[int] = next(views)
        self.due_s: memoryview[float] = next(views)
        self.late_s: memoryview[float] = next(views)
        self.sent_s: memoryview[float] = next(views)
        self.latency_s: memoryview[float] = next(views)
        self.place: memoryview[int] = next(views)
        self.finished: memoryview[int] = next(views)
        self.status: memoryview[int] = next(views)
        self.is_wrong: memoryview[int] = next(views)
        self.has_retry_after: memoryview[int] = next(views)

    @staticmethod
    def size(n: int) -> int:
        """Bytes of the block."""
        return 8 * _N_COUNTS + n * sum(map(struct.calcsize, _FIELDS))

    @classmethod
    def of(cls, due_s: NDArray[np.float64], place: NDArray[np.intp], block: memoryview | None = None) -> Record:
        """A record of a schedule of which nothing was sent yet, in memory of its own where none is given."""
        record = cls(len(due_s), memoryview(bytearray(cls.size(len(due_s)))) if block is None else block)
        np.asarray(record.due_s)[:] = due_s
        np.asarray(record.place)[:] = place
        for view in (record.late_s, record.sent_s, record.latency_s):
            np.asarray(view)[:] = np.nan
        np.asarray(record.status)[:] = UNSENT
        return record


def _cut(block: memoryview, parts: Iterable[tuple[str, int]]) -> Iterator[Any]:
    """Views of items of a type, one after the other."""
    begin = 0
    for code, n in parts:
        end = begin + n * struct.calcsize(code)
        yield block[begin:end].cast(code)  # type: ignore[call-overload]
        begin = end
