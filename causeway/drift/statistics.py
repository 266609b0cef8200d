"""How far two sets of counts on the same bins are apart: PSI, Kolmogorov-Smirnov, the worst bin, chi-squared.

Every function takes counts (..., n_bins) of the reference and of the current rows and gives a statistic (...), so that
a window and ten thousand resampled ones are measured by the same code. All are NaN where either has no rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[Any]
Floats = NDArray[np.float64]

PSI_MODERATE, PSI_LARGE = 0.1, 0.25
"""What is widely quoted as "some change" and "a large change" of PSI; shown, never used.

They say nothing of the number of rows: 100 rows of one distribution exceed them by chance. Source: Siddiqi, Credit
Risk Scorecards (2006).
"""

EMPTY_BIN = 0.5
"""What a bin that is empty on one side counts as, since PSI takes logarithms."""


def psi(reference: Counts, current: Counts) -> Floats:
    """Population Stability Index in nats, at least 0; 0 when the counts fall alike.

    Bins that are empty on one side count as `EMPTY_BIN`; those empty on both are left out. Source: Siddiqi, Credit Risk
    Scorecards (2006).
    """
    is_used = reference + current > 0
    p, q = (np.where(is_used, np.maximum(counts, EMPTY_BIN), 0.0) for counts in (reference, current))
    p, q = _shares(p), _shares(q)
    logarithms = np.log(np.where(is_used, p, 1.0) / np.where(is_used, q, 1.0))
    index: Floats = ((p - q) * logarithms).sum(axis=-1)
    return np.where((reference.sum(axis=-1) > 0) & (current.sum(axis=-1) > 0), index, np.nan)


def ks(reference: Counts, current: Counts) -> Floats:
    """Kolmogorov-Smirnov statistic on the bins: the largest difference of the cumulative shares, 0 to 1.

    At most the statistic of the values themselves, since differences within a bin are not seen. Source: Smirnov,
    Annals of Mathematical Statistics 19 (1948).
    """
    difference = np.cumsum(_shares(reference), axis=-1) - np.cumsum(_shares(current), axis=-1)
    largest: Floats = np.abs(difference).max(axis=-1)
    return np.minimum(largest, 1.0)


def bin_deviance(reference: Counts, current: Counts) -> Floats:
    """How much the worst bin alone speaks against its share being the same in both, at least 0.

    The largest, over the bins, of twice the logarithm of the likelihood ratio of two shares to one share. It finds what
    turns a few values to the same one, which PSI, a sum over all bins, and KS hardly see. Source: Wilks, Annals of
    Mathematical Statistics 9 (1938).
    """
    n, m = reference.sum(axis=-1, keepdims=True), current.sum(axis=-1, keepdims=True)
    together = reference + current
    different = _x_log_x(reference) + _x_log_x(n - reference) + _x_log_x(current) + _x_log_x(m - current)
    same = _x_log_x(together) + _x_log_x(n + m - together)
    deviance: Floats = 2 * (different - same + _x_log_x(n + m) - _x_log_x(n) - _x_log_x(m)).max(axis=-1)
    return np.where((n > 0) & (m > 0), deviance[..., None], np.nan)[..., 0].clip(min=0.0)


def chi_squared(reference: Counts, current: Counts) -> Floats:
    """Pearson's chi-squared for the homogeneity of the two counts; see `degrees_of_freedom`.

    Bins that are empty on both sides are left out. One that is as good as empty in the reference makes it fly off at a
    single row: see `closed`. Source: Pearson, Biometrika 8 (1911), "On the probability that two
    independent distributions of frequency are really samples from the same population".
    """
    n, m = reference.sum(axis=-1), current.sum(axis=-1)
    together = reference + current
    difference = _shares(reference) - _shares(current)
    terms = np.divide(difference**2, together, out=np.zeros_like(difference), where=together > 0)
    statistic: Floats = n * m * terms.sum(axis=-1)
    return statistic


def closed(counts: Counts) -> Counts:
    """(..., n_bins - 2): the open bins at both ends counted with their neighbours. Needs at least 3 bins."""
    inner = counts[..., 1:-1].copy()
    inner[..., 0] += counts[..., 0]
    inner[..., -1] += counts[..., -1]
    return inner


def degrees_of_freedom(reference: Counts, current: Counts) -> int:
    """Of `chi_squared` for two counts (n_bins,): the bins that are not empty on both sides, less one."""
    return max(int(np.count_nonzero(reference + current)) - 1, 0)


def effective_rows(n: Any, m: Any) -> Any:
    """n m / (n + m): as many rows as must be drawn to vary as much as n and m rows together do; 0 without any."""
    return n * m / np.maximum(n + m, 1)


def measure(name: str, reference: Counts, current: Counts) -> Floats:
    """The statistic of that name: `psi`, `ks`, `bin_deviance`, or `chi_squared` of the `closed` bins."""
    return _STATISTICS[name](reference, current)


def scaled(name: str, reference: Counts, current: Counts) -> Floats:
    """The statistic in units in which chance gives about the same whatever the numbers of rows.

    PSI times `effective_rows`, which is distributed much as chi-squared (Yurdakul, Statistical Properties of Population
    Stability Index, 2018); the square of KS times them, the square of Kolmogorov's statistic; the others as they are.
    """
    value = measure(name, reference, current)
    rows = effective_rows(reference.sum(axis=-1), current.sum(axis=-1))
    return rows * value**2 if name == "ks" else rows * value if name == "psi" else value


def _shares(counts: Counts) -> Floats:
    """Counts over their sum; NaN where that is 0."""
    total = counts.sum(axis=-1, keepdims=True)
    shares: Floats = np.divide(counts, total, out=np.full(counts.shape, np.nan), where=total > 0)
    return shares


def _x_log_x(counts: Counts) -> Floats:
    """0 for 0."""
    return counts * np.log(np.maximum(counts, 1))


def _chi_squared_closed(reference: Counts, current: Counts) -> Floats:
    return chi_squared(closed(reference), closed(current))


_STATISTICS = {"psi": psi, "ks": ks, "bin_deviance": bin_deviance, "chi_squared": _chi_squared_closed}
