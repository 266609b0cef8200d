"""What training left with a version for judging it in production."""

from __future__ import annotations

import msgspec

from causeway.quality.estimate import CalibrationMap

DEFAULT_THRESHOLD = 0.5
"""Of versions that were saved without one."""


class Working(msgspec.Struct, frozen=True):
    """A version's working threshold and calibration map; None where training did not leave any."""

    chosen: float | None = msgspec.field(default=None, name="threshold")
    calibration_map: CalibrationMap | None = None

    @classmethod
    def from_json(cls, evaluation: bytes) -> Working:
        """Read from evaluation.json, of which the rest is left alone. Raises `msgspec.DecodeError`."""
        return msgspec.json.decode(evaluation, type=cls)

    @property
    def threshold(self) -> float:
        """The score from which on a row counts as positive."""
        return DEFAULT_THRESHOLD if self.chosen is None else self.chosen
