"""The laws of schedules."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from load_tests.open_loop.arrivals import constant, poisson

rates, durations, seeds = st.floats(1, 5_000), st.floats(0.1, 10), st.integers(0, 2**32 - 1)


def is_schedule(due_s: NDArray[np.float64], seconds: float) -> bool:
    """Whether times are sorted and inside the schedule."""
    return bool((np.diff(due_s) >= 0).all() and ((due_s >= 0) & (due_s < seconds)).all())


@given(rate=rates, seconds=durations)
def test_constant_arrivals_are_as_far_apart_as_the_rate_says_and_fill_the_schedule(rate: float, seconds: float) -> None:
    due_s = constant(rate, seconds)
    assert is_schedule(due_s, seconds)
    assert due_s[0] == 0
    assert np.allclose(np.diff(due_s), 1 / rate)
    assert due_s[-1] + 1 / rate >= seconds * (1 - 1e-9)


@given(rate=rates, seconds=durations, seed=seeds)
def test_poisson_arrivals_are_sorted_inside_the_schedule_and_as_many_as_the_rate_says(
    rate: float, seconds: float, seed: int
) -> None:
    due_s = poisson(rate, seconds, np.random.default_rng(seed))
    assert is_schedule(due_s, seconds)
    assert abs(len(due_s) - rate * seconds) <= 8 * (rate * seconds) ** 0.5 + 8


def test_gaps_of_poisson_arrivals_are_exponential() -> None:
    gaps_s = np.diff(poisson(1_000, 20, np.random.default_rng(0)))
    assert stats.kstest(gaps_s, stats.expon(scale=1e-3).cdf).pvalue > 0.01


@given(rate=rates, seconds=durations, seed=seeds)
def test_a_seed_says_which_poisson_arrivals(rate: float, seconds: float, seed: int) -> None:
    first, second = (poisson(rate, seconds, np.random.default_rng(seed)) for _ in range(2))
    assert np.array_equal(first, second)
