"""The reference that drift is measured against: bin edges and counts, fixed when the model is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

N_BINS = 20
"""Bins of a feature with many values; one with at most this many distinct values gets a bin for each of them."""


def reference(samples: Mapping[str, NDArray[Any]]) -> dict[str, Any]:
    """Per name of `samples` ((n,) finite floats, n >= 1) the bins and the moments, as plain values for JSON.

    `edges` are the inner edges: bin i holds edges[i-1] < x <= edges[i], the first and the last bin are open, so that
    `counts` has one more entry than `edges`. They are quantiles of the sample, or lie between its distinct values
    where it has few.
    """
    return {name: _bins(np.asarray(sample, dtype=np.float64)) for name, sample in samples.items()}


def _bins(sample: NDArray[np.float64]) -> dict[str, Any]:
    values = np.unique(sample)
    if len(values) <= N_BINS:
        edges = (values[:-1] + values[1:]) / 2
    else:
        edges = np.unique(np.quantile(sample, np.linspace(0, 1, N_BINS + 1)[1:-1], method="inverted_cdf"))
    counts = np.bincount(np.searchsorted(edges, sample, side="left"), minlength=len(edges) + 1)
    return {
        "rows": len(sample),
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "mean": float(sample.mean()),
        "standard_deviation": float(sample.std()),
        "minimum": float(values[0]),
        "maximum": float(values[-1]),
    }
