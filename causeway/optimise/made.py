"""A variant that was made and passed the gate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from causeway.optimise.kinds import Kind
from causeway.optimise.measure import Figures, Scoring


@dataclass(frozen=True)
class Made:
    """With what was measured of it."""

    kind: Kind
    files: Mapping[str, bytes]
    """The model, and those of the network where torch is to run it on GPUs."""
    own: Figures
    in_torch: Scoring | None
    """What torch makes of the held-out rows, where there are files for it."""
