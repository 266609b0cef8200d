"""The statistics: laws that hold for any counts, and SciPy's figures where SciPy has them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import chi2_contingency, entropy, ks_2samp

from causeway.drift.statistics import (
    Counts,
    bin_deviance,
    chi_squared,
    closed,
    degrees_of_freedom,
    effective_rows,
    ks,
    measure,
    psi,
    scaled,
)

NAMES = ("psi", "ks", "bin_deviance", "chi_squared")
N_BINS = 6


def counts(least: int = 0) -> st.SearchStrategy[Counts]:
    """Of at least one row."""
    return arrays(np.int64, N_BINS, elements=st.integers(least, 1_000)).filter(lambda each: each.sum() > 0)


@pytest.mark.parametrize("name", NAMES)
@given(reference=counts())
def test_every_statistic_is_0_on_the_same_counts(name: str, reference: Counts) -> None:
    assert measure(name, reference, reference) == pytest.approx(0, abs=1e-8)


@pytest.mark.parametrize("name", NAMES)
@given(reference=counts(), current=counts())
def test_every_statistic_is_symmetric_and_not_negative(name: str, reference: Counts, current: Counts) -> None:
    there, back = measure(name, reference, current), measure(name, current, reference)
    assert there == pytest.approx(back, abs=1e-8)
    assert there >= 0


@pytest.mark.parametrize("name", NAMES)
@given(reference=counts(), windows=arrays(np.int64, (3, N_BINS), elements=st.integers(0, 50)))
def test_many_windows_are_measured_as_each_alone(name: str, reference: Counts, windows: Counts) -> None:
    alone = [measure(name, reference, window) for window in windows]
    np.testing.assert_allclose(measure(name, reference, windows), alone, atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_every_statistic_is_nan_without_rows(name: str) -> None:
    rows, none = np.full(N_BINS, 5), np.zeros(N_BINS, dtype=np.int64)
    assert np.isnan(measure(name, rows, none))
    assert np.isnan(measure(name, none, rows))


@given(reference=counts(), current=counts())
def test_ks_is_at_most_1(reference: Counts, current: Counts) -> None:
    assert ks(reference, current) <= 1


def test_ks_is_1_for_counts_that_have_no_bin_in_common() -> None:
    assert ks(np.array([3, 4, 0, 0]), np.array([0, 0, 1, 6])) == pytest.approx(1)


@given(reference=counts(), current=counts())
def test_ks_is_that_of_scipy_for_values_that_are_bins(reference: Counts, current: Counts) -> None:
    values = (np.repeat(np.arange(N_BINS), each) for each in (reference, current))
    assert ks(reference, current) == pytest.approx(ks_2samp(*values, method="asymp").statistic)


@given(reference=counts(least=1), current=counts(least=1))
def test_psi_is_the_sum_of_both_relative_entropies(reference: Counts, current: Counts) -> None:
    both_ways = entropy(reference, current) + entropy(current, reference)
    assert psi(reference, current) == pytest.approx(both_ways, abs=1e-9)


def test_an_empty_bin_counts_as_half_a_row_in_psi() -> None:
    expected = psi(np.array([199.0, 0.5, 0.5]), np.array([149.0, 50.0, 1.0]))
    assert psi(np.array([199, 0, 0.5]), np.array([149, 50, 1])) == pytest.approx(expected)


@given(reference=counts(), current=counts())
def test_chi_squared_is_that_of_scipy_for_the_table_of_both(reference: Counts, current: Counts) -> None:
    used = reference + current > 0
    test = chi2_contingency(np.array([reference[used], current[used]]), correction=False)
    assert chi_squared(reference, current) == pytest.approx(test.statistic, abs=1e-8)
    assert degrees_of_freedom(reference, current) == test.dof


@given(reference=counts(least=1), current=counts(least=1))
def test_the_deviance_of_a_bin_is_the_largest_of_scipys_likelihood_ratio_tests(
    reference: Counts, current: Counts
) -> None:
    tables = [
        np.array([[a, reference.sum() - a], [b, current.sum() - b]]) for a, b in zip(reference, current, strict=True)
    ]
    tests = [chi2_contingency(table, correction=False, lambda_="log-likelihood") for table in tables]
    assert bin_deviance(reference, current) == pytest.approx(max(test.statistic for test in tests), abs=1e-6)


def test_a_row_in_an_open_bin_that_was_empty_does_not_make_chi_squared_fly_off() -> None:
    reference, current = np.array([0, 30_000, 30_000, 0]), np.array([0, 500, 499, 1])
    assert measure("chi_squared", reference, current) < 0.01 < 50 < chi_squared(reference, current)
    assert closed(current).tolist() == [500, 500]


def test_chance_gives_about_the_same_in_scaled_units_whatever_the_number_of_rows() -> None:
    rng, shares = np.random.default_rng(0), np.full(10, 0.1)
    for name in NAMES:
        means = [
            scaled(name, rng.multinomial(m, shares, size=500), rng.multinomial(n, shares, size=500)).mean()
            for n, m in ((500, 50_000), (5_000, 5_000), (100_000, 10_000))
        ]
        assert max(means) < 1.2 * min(means)


def test_effective_rows_are_fewer_than_either() -> None:
    assert effective_rows(100, 100) == 50
    assert effective_rows(100, 10**9) == pytest.approx(100, rel=1e-6)
    assert effective_rows(0, 0) == 0
