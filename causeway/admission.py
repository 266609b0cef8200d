"""Whether a request is let in: one that cannot make its deadline is refused at once, with when to come back."""

from __future__ import annotations

from causeway import errors
from causeway.batching import PROBE_S, Batcher, Priority

HEADROOM = 0.15
"""The share of a request's time that predicted waiting leaves free, besides the caution that the batcher's cost advises
where others are in the way: answers are written too, and the first predictions err."""


def admit(batcher: Batcher, n_rows: int, left_s: float, timeout_ms: float, priority: Priority = "interactive") -> None:
    """Returns if `n_rows` rows are predicted to be done within `left_s` seconds.

    Raises `DeadlineExceeded`, `Overloaded` with the time after which they would be, or `DeadlineUnreachable` where
    nothing is in the way but the deadline itself.
    """
    if left_s <= 0:
        raise errors.DeadlineExceeded(timeout_ms)
    wait_s = batcher.wait_s(n_rows, priority)
    allowed_s = left_s * (1 - HEADROOM)
    late_s = wait_s - allowed_s / batcher.cost.caution
    if late_s <= 0 or batcher.idle_s > PROBE_S:
        return
    if not batcher.is_idle:
        raise errors.Overloaded(timeout_ms, wait_s * 1000, late_s)
    if wait_s > allowed_s:
        raise errors.DeadlineUnreachable(timeout_ms, wait_s * 1000)
