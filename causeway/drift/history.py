"""Windows in time."""

from __future__ import annotations

from dataclasses import dataclass

from causeway.drift.window import Window


@dataclass(frozen=True)
class Stretch:
    """The window of what was served between two times, in seconds since 1970."""

    opened: float
    closed: float
    window: Window

    def __add__(self, later: Stretch) -> Stretch:
        return Stretch(min(self.opened, later.opened), max(self.closed, later.closed), self.window + later.window)

    def is_complete(self, n_rows: int, seconds: float) -> bool:
        """Whether it has at least so many rows and lasted so long; before, nothing is concluded from it."""
        return self.window.rows >= n_rows and self.closed - self.opened >= seconds
