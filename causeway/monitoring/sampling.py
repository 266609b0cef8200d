"""How much of the traffic the prediction log can take: one of how many predictions, as the keeper finds it out.

A keeper that gets too little of the processor falls behind. Then it halves what is kept, of what waits and of what
comes, until what is written is about as new as `LATE_S`; a fair sample, of which each part tells its factor. What
gathered while the database was away is kept whole, as long as the keeper gains on it.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

MOST = 256
"""The largest factor."""

LATE_S = 4.0
"""How old what is written may be before less is kept."""

EARLY_S = 1.5
"""How new it must be before more is kept."""

CALM_S = 5.0
"""How long it must have been so new."""

STEP_S = 1.0
"""How long a change is given to show."""

SOON_S = 5.0
"""In what time the backlog must go, at the pace at which it shrinks, for the factor to be large enough."""

START_S, OUTAGE_S = 20.0, 600.0
"""In what time it must go where there was no keeper before, and where the database was away."""

_FILE = "sampling"


class Sampling:
    """Decides on the factor: a power of 2, 1 where all is kept."""

    def __init__(self, now: float) -> None:
        self.factor = 1
        self._looked_at = now
        self._late_at = now
        self._catches_up_until = now + START_S
        self._backlog_bytes = math.inf
        """At the last look; infinite where it does not count that it has grown since."""

    def interrupted(self, now: float) -> None:
        """The database was away: what gathered meanwhile says nothing about how fast the keeper is."""
        self._catches_up_until = now + OUTAGE_S
        self._backlog_bytes = math.inf

    def observe(self, age_s: float, backlog_bytes: int, now: float) -> None:
        """Takes into account how old the oldest prediction is that waits, and how much waits."""
        if age_s > EARLY_S:
            self._late_at = now
        else:
            self._catches_up_until = now
        since_s = now - self._looked_at
        if since_s < STEP_S:
            return
        less_bytes, self._backlog_bytes = self._backlog_bytes - backlog_bytes, float(backlog_bytes)
        self._looked_at = now
        is_gaining = less_bytes * max(self._catches_up_until - now, SOON_S) > backlog_bytes * since_s
        if age_s > LATE_S and not is_gaining:
            self.factor = min(self.factor * 2, MOST)
        elif now - self._late_at >= CALM_S and self.factor > 1:
            self.factor //= 2
            self._late_at = now


def tell(folder: Path, factor: int) -> None:
    """Lets the recorders of this server know; where it cannot be written, the keeper alone leaves out the rest."""
    beside = folder / f".{_FILE}"
    with suppress(OSError):
        beside.write_text(str(factor))
        beside.replace(folder / _FILE)


def told(folder: Path) -> int:
    """What the keeper of this folder said last; 1 where there was none."""
    with suppress(OSError, ValueError):
        return max(1, int((folder / _FILE).read_text()))
    return 1
