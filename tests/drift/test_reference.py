"""The drift reference: bins are fixed, cover everything, and count every row once."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from causeway.drift.reference import N_BINS, reference

SAMPLES = hnp.arrays(
    np.float64, st.integers(1, 300), elements=st.floats(-1e6, 1e6, allow_nan=False, allow_subnormal=False)
)


@given(SAMPLES)
def test_every_row_is_counted_in_one_bin(sample: NDArray[np.float64]) -> None:
    bins = reference({"x": sample})["x"]
    assert sum(bins["counts"]) == bins["rows"] == len(sample)
    assert len(bins["counts"]) == len(bins["edges"]) + 1 <= N_BINS
    assert bins["edges"] == sorted(set(bins["edges"]))


@given(SAMPLES)
def test_counts_follow_the_stated_intervals(sample: NDArray[np.float64]) -> None:
    bins = reference({"x": sample})["x"]
    edges = [-np.inf, *bins["edges"], np.inf]
    counted = [int(((sample > low) & (sample <= high)).sum()) for low, high in itertools.pairwise(edges)]
    assert bins["counts"] == counted


def test_a_feature_with_few_values_has_a_bin_for_each() -> None:
    bins = reference({"flag": np.array([0, 1, 1, 0, 1])})["flag"]
    assert bins["edges"] == [0.5]
    assert bins["counts"] == [2, 3]


def test_a_constant_feature_has_one_bin() -> None:
    assert reference({"x": np.full(10, 3.0)})["x"]["counts"] == [10]


def test_bins_of_a_continuous_feature_are_nearly_equally_filled() -> None:
    bins = reference({"x": np.random.default_rng(0).normal(size=10_000)})["x"]
    assert len(bins["counts"]) == N_BINS
    assert max(bins["counts"]) - min(bins["counts"]) <= 2
