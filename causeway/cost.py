"""What a piece of work costs, as a straight line over its size, learnt while it is done.

The size is rows for a model's batches and bytes for bodies to decode.
"""

from __future__ import annotations

import math

RATE = 0.1
"""How much of an error one observation corrects; about the last 1 / RATE observations count."""

LEAST_SHARE = 0.01
"""Of the larger coefficient, what the smaller one is corrected as at least: one that is 0 can grow again."""

TRUSTED_ERROR = 1.0
"""An observation further from the prediction than this share of it counts as no further: a pause of the machine is
seen as one slow batch, not as a model that became ten times dearer. With each further one in a row it is believed
twice as much."""

MOST_TRUSTED = 1024 * TRUSTED_ERROR

DEVIATIONS = 2.0
"""Mean deviations by which work takes longer than predicted in hardly any case: one of 20, where errors are normal.
Source: Jacobson, Congestion Avoidance and Control (SIGCOMM 1988), where it is 2, and 4 in later practice."""


class Cost:
    """seconds = fixed_s + per_unit_s * size, both never negative, corrected by every observation.

    The correction is that of proportionate normalised least mean squares (Duttweiler, IEEE Transactions on Speech and
    Audio Processing 8, 2000), on sizes divided by their running mean: each coefficient is corrected by its share of
    what an observation was predicted to take. Observations of one size do not tell the two apart; divided equally,
    their noise would make 1 000 rows look twenty times too dear after some minutes of single rows.
    """

    __slots__ = ("_mean_size", "_trusted", "caution", "fixed_s", "per_unit_s")

    def __init__(self, fixed_s: float, per_unit_s: float) -> None:
        self.fixed_s = fixed_s
        self.per_unit_s = per_unit_s
        self.caution = 1.0
        """How many times as long as predicted work will hardly take: 1, and `DEVIATIONS` times the mean absolute error
        of the last predictions, as a share of them."""
        self._mean_size = 1.0
        self._trusted = TRUSTED_ERROR

    def seconds(self, size: float) -> float:
        """Predicted seconds for work of this size."""
        return self.fixed_s + self.per_unit_s * size

    def size_within(self, seconds: float) -> float:
        """The largest size that is predicted to take no longer; at most 0 where nothing is that quick."""
        if self.per_unit_s <= 0:
            return math.inf if seconds >= self.fixed_s else 0.0
        return (seconds - self.fixed_s) / self.per_unit_s

    def learn(self, size: float, seconds: float) -> None:
        """Takes an observation into account."""
        predicted = self.fixed_s + self.per_unit_s * size
        self._mean_size += RATE * (size - self._mean_size)
        scaled = size / self._mean_size
        error, reach = seconds - predicted, self._trusted * predicted
        if -reach <= error <= reach or reach == 0:
            self._trusted = TRUSTED_ERROR
        else:
            self._trusted = min(2 * self._trusted, MOST_TRUSTED)
            error = math.copysign(reach, error)
        if predicted:
            self.caution += RATE * (1 + DEVIATIONS * min(abs(error) / predicted, TRUSTED_ERROR) - self.caution)
        fixed, per_unit = self.fixed_s, self.per_unit_s * self._mean_size
        least = LEAST_SHARE * max(fixed, per_unit) or 1.0
        fixed, per_unit = max(fixed, least), max(per_unit, least)
        step = RATE * error / (fixed + per_unit * scaled * scaled)
        self.fixed_s = max(0.0, self.fixed_s + step * fixed)
        self.per_unit_s = max(0.0, self.per_unit_s + step * per_unit * scaled / self._mean_size)
