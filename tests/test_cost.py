"""A line is found in noisy observations, and no single observation bends it far."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from causeway.cost import RATE, Cost

fixed = st.floats(0, 0.1)
per_unit = st.floats(1e-7, 1e-2)
sizes = st.lists(st.integers(1, 5000), min_size=1, max_size=60)


@settings(max_examples=40, deadline=None)
@given(fixed, per_unit, st.sampled_from([(1, 64), (1, 5000), (100, 200), (30_000, 10**7)]), st.integers(0, 2**32 - 1))
def test_a_noisy_line_is_learnt_wherever_it_starts(
    fixed_s: float, per_unit_s: float, between: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cost = Cost(0.0, 10e-9)
    seen = rng.integers(*between, 3000, endpoint=True)
    for size in seen:
        cost.learn(size, (fixed_s + per_unit_s * size) * rng.normal(1, 0.05))
    for size in (between[0], float(seen.mean()), between[1]):
        true_s = fixed_s + per_unit_s * size
        # Small sizes are predicted to within a share of what the usual ones take.
        usual_s = fixed_s + per_unit_s * float(seen.mean())
        assert cost.seconds(size) == pytest.approx(true_s, rel=0.25, abs=0.15 * usual_s)


@settings(deadline=None)
@given(fixed, per_unit, st.lists(st.tuples(st.integers(1, 10**8), st.floats(0, 100)), max_size=100))
def test_no_observations_make_a_cost_negative_or_not_a_number(
    fixed_s: float, per_unit_s: float, observations: list[tuple[int, float]]
) -> None:
    cost = Cost(fixed_s, per_unit_s)
    for size, seconds in observations:
        cost.learn(size, seconds)
        assert 0 <= cost.fixed_s < math.inf
        assert 0 <= cost.per_unit_s < math.inf


@pytest.mark.parametrize("noise", [0.0, 0.05, 0.2])
def test_work_hardly_takes_longer_than_caution_says(noise: float) -> None:
    rng = np.random.default_rng(0)
    cost = Cost(1e-3, 1e-3)
    n_longer = 0
    for n in range(3000):
        size = int(rng.integers(1, 20))
        seconds = (1e-3 + 1e-3 * size) * rng.normal(1, noise)
        n_longer += n >= 100 and seconds > cost.caution * cost.seconds(size) * (1 + 1e-9)
        cost.learn(size, seconds)
    assert n_longer < 0.1 * 2900
    assert cost.caution == pytest.approx(1 + 2 * 0.8 * noise, abs=0.02 + noise)


def test_a_pause_makes_hardly_more_cautious_and_nothing_more_than_its_most() -> None:
    cost = Cost(1e-3, 1e-3)
    cost.learn(1, 100.0)
    assert 1 < cost.caution <= 1 + 2 * RATE
    for n in range(100):
        cost.learn(1, 100.0 * 3**n if n < 50 else 0.0)
        assert cost.caution <= 3


@settings(deadline=None)
@given(fixed, per_unit, sizes, st.integers(1, 5000), st.floats(0, 1e6))
def test_one_wild_observation_changes_what_its_size_costs_by_no_more_than_the_rate(
    fixed_s: float, per_unit_s: float, usual: list[int], size: int, seconds: float
) -> None:
    cost = Cost(fixed_s, per_unit_s)
    for seen in usual:
        cost.learn(seen, fixed_s + per_unit_s * seen)
    before = cost.seconds(size)
    assume(before > 0)
    cost.learn(size, seconds)
    assert abs(cost.seconds(size) - before) <= before * RATE * (1 + 1e-9)


@pytest.mark.parametrize(("fixed_s", "per_unit_s"), [(20e-6, 2e-6), (1e-3, 1e-6), (100e-6, 5e-6), (0.0, 5e-3)])
def test_observations_of_one_size_hardly_change_what_others_are_predicted_to_cost(
    fixed_s: float, per_unit_s: float
) -> None:
    rng = np.random.default_rng(0)
    cost, large = Cost(fixed_s, per_unit_s), []
    for _ in range(5000):
        cost.learn(1, (fixed_s + per_unit_s) * rng.lognormal(0, 0.1))
        large.append(cost.seconds(1000))
    assert max(large) <= 2 * (fixed_s + per_unit_s * 1000)


@settings(deadline=None)
@given(fixed, per_unit, st.floats(1, 1e6))
def test_the_size_within_a_time_is_the_inverse_of_the_time_for_a_size(
    fixed_s: float, per_unit_s: float, size: float
) -> None:
    cost = Cost(fixed_s, per_unit_s)
    assert cost.size_within(cost.seconds(size)) == pytest.approx(size, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("seconds", "size"), [(0.01, math.inf), (0.02, math.inf), (0.009, 0)])
def test_without_a_cost_per_unit_all_sizes_fit_or_none(seconds: float, size: float) -> None:
    assert Cost(0.01, 0.0).size_within(seconds) == size


def test_less_time_than_the_fixed_cost_is_enough_for_nothing() -> None:
    assert Cost(0.01, 0.001).size_within(0.005) <= 0


@pytest.mark.parametrize("wrong_s", [1e-6, 10.0])
def test_what_was_far_off_is_right_again_after_some_dozens_of_observations(wrong_s: float) -> None:
    cost = Cost(0.0, wrong_s)
    for size in [1, 2, 4, 8, 16] * 60:
        cost.learn(size, 0.002 + 0.001 * size)
    assert cost.seconds(8) == pytest.approx(0.010, rel=0.2)
