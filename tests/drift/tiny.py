"""A small reference: an amount, a yes or no that follows the clock, a column that is always 1, and the score."""

from __future__ import annotations

import numpy as np

from causeway.contract import Array
from causeway.drift.calibration import Samples, calibrate

NAMES = ("amount", "night", "always", "p")
DAY = 1_000
"""Rows of a day, of which a quarter is night."""


def rows(n: int, seed: int) -> Array:
    """(n, 3) in time order."""
    rng = np.random.default_rng(seed)
    night = np.arange(n) % DAY < DAY / 4
    return np.column_stack([rng.lognormal(size=n), night, np.ones(n)]).astype(np.float32)


def scores(X: Array) -> Array:
    return X[:, 0] / (1 + X[:, 0])


TRAINING, HELD_OUT = rows(9_000, 1), rows(16_000, 2)
TIME = np.datetime64("2024-01-01", "s") + np.arange(len(HELD_OUT))
TIMED = calibrate(NAMES, Samples(TRAINING, HELD_OUT, scores(HELD_OUT), TIME), 0)
UNTIMED = calibrate(NAMES, Samples(TRAINING, HELD_OUT, scores(HELD_OUT)), 0)


def drawn(n: int, seed: int) -> Array:
    """Rows drawn from the held-out ones."""
    return HELD_OUT[np.random.default_rng(seed).integers(len(HELD_OUT), size=n)]
