"""How sure a share is, that was seen in few rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Interval = tuple[float, float]
"""Low and high."""

Z = 1.959964
"""Standard normal quantile of 97.5 %: intervals hold the truth in 95 % of cases."""


def wilson(share: float, n: float) -> Interval:
    """The 95 % confidence interval of a share that was seen in `n` > 0 independent observations, within 0 and 1.

    Holds for few observations and for shares of 0 and 1, unlike one by the normal distribution around `share`.
    Source: Wilson, Journal of the American Statistical Association 22 (1927); recommended by Brown, Cai, DasGupta,
    Statistical Science 16 (2001).
    """
    centre = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def design_effect(entity: NDArray[np.int64]) -> float:
    """How many observations (n,) of these entities are worth one independent one; 1 where all differ, or none.

    Those of one entity count as if they always agreed, which makes intervals rather too wide than too narrow.
    Source: Kish, Survey Sampling (1965), with an intraclass correlation of 1.
    """
    counts: NDArray[Any] = np.unique(entity, return_counts=True)[1]
    return float((counts**2).sum() / counts.sum()) if len(counts) else 1.0
