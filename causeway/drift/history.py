"""Windows in time, joined to ones with enough rows."""

from __future__ import annotations

from collections.abc import Iterable
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


def fold(stretches: Iterable[Stretch], n_rows: int) -> list[Stretch]:
    """The stretches in their order, joined until each has at least `n_rows` rows.

    What remains at the end is too short and left out: counted from the first stretch on, no row is in two windows, and
    a window that is complete stays as it is when more comes.
    """
    folded: list[Stretch] = []
    gathered: Stretch | None = None
    for stretch in stretches:
        gathered = stretch if gathered is None else gathered + stretch
        if gathered.window.rows >= n_rows:
            folded.append(gathered)
            gathered = None
    return folded
