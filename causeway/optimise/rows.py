"""Training rows that show what a network's activations are like."""

from __future__ import annotations

import numpy as np

from causeway.contract import Array

N_ROWS = 2000
"""Besides the extremes."""


def representative(rows: Array) -> Array:
    """At most `N_ROWS` of the rows, evenly spread over them, and those with the least and the most of each feature."""
    spread = np.linspace(0, len(rows) - 1, min(N_ROWS, len(rows))).astype(np.intp)
    chosen = np.unique(np.concatenate([spread, rows.argmin(axis=0), rows.argmax(axis=0)]))
    return rows.take(chosen, axis=0)
