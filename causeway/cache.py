"""Answers kept: the predictions for rows that were asked before, exactly these rows, of one model version."""

from __future__ import annotations

from collections import OrderedDict

from causeway.contract import Array

ENTRY_BYTES = 512
"""What an entry takes beside its rows and its predictions: two objects, their headers, a place in the table."""


class ResponseCache:
    """Predictions by the bytes of the rows, at most `limit_bytes` in all; what was not asked for longest goes first.

    Belongs to one version and ends with it, so it never serves another's answers. The key is all of the rows, not a
    digest of them.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._n_bytes = 0
        self._kept: OrderedDict[bytes, Array] = OrderedDict()

    @property
    def n_bytes(self) -> int:
        """What the entries take."""
        return self._n_bytes

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: bytes) -> Array | None:
        """The predictions for the rows with these bytes; None where they are not kept."""
        predictions = self._kept.get(key)
        if predictions is not None:
            self._kept.move_to_end(key)
        return predictions

    def put(self, key: bytes, predictions: Array) -> None:
        """Keeps them, and lets go of others where that takes too much; what alone takes too much is not kept."""
        if _size(key, predictions) > self._limit_bytes:
            return
        self._forget(key)
        kept = predictions.copy()  # not a view of a whole batch
        kept.flags.writeable = False
        self._kept[key] = kept
        self._n_bytes += _size(key, predictions)
        while self._n_bytes > self._limit_bytes:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: bytes) -> None:
        predictions = self._kept.pop(key, None)
        if predictions is not None:
            self._n_bytes -= _size(key, predictions)


def _size(key: bytes, predictions: Array) -> int:
    return len(key) + predictions.nbytes + ENTRY_BYTES
