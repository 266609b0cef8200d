"""What became of the requests of a schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from load_tests.open_loop.record import UNSENT, Record

REFUSALS = (503, 504, 429)
"""Statuses by which a server says that it will not."""


class Outcome(IntEnum):
    """Of a request."""

    RIGHT = 0
    """200, with the right content."""
    REFUSED = 1
    """One of `REFUSALS`."""
    FAILED = 2
    """Another status, a broken connection, or no answer in time."""
    WRONG = 3
    """200, with wrong content."""
    UNSENT = 4
    """The generator had no connection left."""


@dataclass(frozen=True)
class Sender:
    """A generator during a schedule."""

    connections: int
    """The most that were open at once."""
    faults: dict[str, int]
    """Why answers did not come or were not right, refusals aside, and how often."""
    cpu_s: float
    """User and system seconds that it ran."""


@dataclass(frozen=True)
class Offered:
    """What became of each request of a schedule, in the order of `due_s`; all arrays are (n_requests,)."""

    due_s: NDArray[np.float64]
    """When it was meant to go out, in seconds from the start of the schedule."""
    place: NDArray[np.int32]
    """Which of the requests it was."""
    late_s: NDArray[np.float64]
    """How much later the generator turned to it; opening a connection for it, where none was idle, is not in this."""
    sent_s: NDArray[np.float64]
    """When it went out, in seconds from the start; NaN where there was no connection for it."""
    status: NDArray[np.int16]
    """Of its answer; `NO_ANSWER` where the connection broke or none came in time, `UNSENT` where none was free."""
    latency_s: NDArray[np.float64]
    """From `due_s` to the last byte of the answer; NaN without one."""
    outcome: NDArray[np.int8]
    """An `Outcome`."""
    has_retry_after: NDArray[np.bool_]
    """Whether the answer had a Retry-After header; not looked for in answers 200."""
    began: float
    """When the schedule started, in seconds since 1970."""
    connections: int
    """The most that were open at once."""
    faults: dict[str, int]
    """Why answers did not come or were not right, refusals aside, and how often."""
    cpu_s: tuple[float, ...]
    """User and system seconds of each generator."""

    @classmethod
    def of(cls, records: Sequence[Record], senders: Sequence[Sender], began: float) -> Offered:
        """What several generators noted, each of its share of one schedule."""
        due_s, place, late_s, sent_s, status, latency_s, is_wrong, has_retry_after = (
            np.concatenate([np.asarray(getattr(record, name)) for record in records])
            for name in ("due_s", "place", "late_s", "sent_s", "status", "latency_s", "is_wrong", "has_retry_after")
        )
        order = np.argsort(due_s, kind="stable")
        return cls(
            due_s=due_s[order],
            place=place[order],
            late_s=late_s[order],
            sent_s=sent_s[order],
            status=status[order],
            latency_s=latency_s[order],
            outcome=outcomes(status, is_wrong)[order],
            has_retry_after=has_retry_after[order].astype(np.bool_),
            began=began,
            connections=sum(sender.connections for sender in senders),
            faults=dict(sum((Counter(sender.faults) for sender in senders), Counter())),
            cpu_s=tuple(sender.cpu_s for sender in senders),
        )


def outcomes(status: NDArray[np.int16], is_wrong: NDArray[np.int8]) -> NDArray[np.int8]:
    """The `Outcome` of requests, (n_requests,)."""
    cases = [status == UNSENT, np.isin(status, REFUSALS), status != 200, is_wrong != 0]
    return np.select(cases, [Outcome.UNSENT, Outcome.REFUSED, Outcome.FAILED, Outcome.WRONG], Outcome.RIGHT).astype(
        np.int8
    )
