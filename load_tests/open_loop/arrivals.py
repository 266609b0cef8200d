"""When requests are due: schedules of arrivals that do not wait for answers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def constant(rate: float, seconds: float) -> NDArray[np.float64]:
    """Times in [0, `seconds`), sorted: one every 1 / `rate` seconds, the first at 0."""
    times = np.arange(np.ceil(rate * seconds)) / rate
    return times[times < seconds]


def poisson(rate: float, seconds: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Times in [0, `seconds`), sorted, at which independent callers come: gaps are exponential."""
    n = int(rate * seconds + 6 * (rate * seconds) ** 0.5) + 10
    times = rng.exponential(1 / rate, n).cumsum()
    return times[times < seconds]
