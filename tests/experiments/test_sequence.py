"""Confidence sequences: their laws, and how often they err when somebody looks all the time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from causeway.experiments.sequence import (
    Flags,
    Floats,
    difference_sums,
    distance,
    evidence,
    intervals,
    mean_sums,
    ratio_evidence,
)

ALPHA = 0.05
Units = tuple[Floats, Flags]


@st.composite
def units(draw: st.DrawFn) -> Units:
    n = draw(st.integers(1, 60))
    y = draw(arrays(np.float64, n, elements=st.floats(0, 1)))
    return y, draw(arrays(np.bool_, n))


shares = st.floats(0.01, 0.99)


@given(units(), shares)
def test_swapping_the_arms_flips_the_sign(drawn: Units, share: float) -> None:
    y, is_variant = drawn
    one = intervals(difference_sums(y, is_variant, share), ALPHA, least=-1)
    other = intervals(difference_sums(y, ~is_variant, 1 - share), ALPHA, least=-1)
    np.testing.assert_allclose(one.value, -other.value, atol=1e-9)
    np.testing.assert_allclose(one.low, -other.high, atol=1e-9)


@given(units(), shares)
def test_an_interval_contains_its_estimate_and_nothing_impossible(drawn: Units, share: float) -> None:
    y, is_variant = drawn
    for least, sums in ((-1.0, difference_sums(y, is_variant, share)), (0.0, mean_sums(y))):
        low, value, high = intervals(sums, ALPHA, least=least)
        assert ((least <= low) & (low <= value) & (value <= high) & (high <= 1)).all()


@given(units(), shares, st.floats(-1, 1))
def test_an_interval_is_all_that_there_is_no_evidence_against(drawn: Units, share: float, expected: float) -> None:
    y, is_variant = drawn
    sums = difference_sums(y, is_variant, share)
    against = evidence(sums.total - expected * sums.weight, sums.squares) - math.log(1 / ALPHA)
    outside = np.abs(sums.total / sums.weight - expected) - distance(sums.squares, ALPHA) / sums.weight
    is_clear = (np.abs(against) > 1e-6) & (np.abs(outside) > 1e-9)
    assert ((against > 0) == (outside > 0))[is_clear].all()


@given(units(), shares, st.integers(1, 60))
def test_what_was_seen_at_a_look_stays_when_units_are_added(drawn: Units, share: float, n: int) -> None:
    y, is_variant = drawn
    n = min(n, len(y))
    for later, then in zip(
        difference_sums(y, is_variant, share), difference_sums(y[:n], is_variant[:n], share), strict=True
    ):
        np.testing.assert_allclose(later[:n], then)


@given(st.floats(0, 1e6), st.floats(0, 1e6), st.floats(0.001, 0.5), st.floats(0.001, 0.5))
def test_more_spread_and_less_error_make_it_wider(one: float, other: float, alpha: float, beta: float) -> None:
    fewer, more = sorted((one, other))
    assert distance(np.array(fewer), alpha) <= distance(np.array(more), alpha)
    assert distance(np.array(more), max(alpha, beta)) <= distance(np.array(more), min(alpha, beta))


@given(units())
def test_the_mean_is_that_of_all_units(drawn: Units) -> None:
    y, _ = drawn
    np.testing.assert_allclose(intervals(mean_sums(y), ALPHA, least=0).value[-1], y.mean())


def test_the_estimate_is_close_to_the_difference_of_the_means() -> None:
    generator = np.random.default_rng(0)
    is_variant = generator.random(20_000) < 0.3
    y = generator.beta(np.where(is_variant, 3, 2), 5)
    low, value, high = (bound[-1] for bound in intervals(difference_sums(y, is_variant, 0.3), ALPHA, least=-1))
    assert value == pytest.approx(y[is_variant].mean() - y[~is_variant].mean(), abs=(high - low) / 20)
    assert low < 3 / 8 - 2 / 7 < high


@pytest.mark.parametrize("share", [0.5, 0.05])
@pytest.mark.parametrize("rate", [0.008, 0.3])
def test_at_most_one_in_twenty_errs_ever_though_somebody_looks_at_every_row(rate: float, share: float) -> None:
    generator = np.random.default_rng(0)
    is_variant = generator.random((400, 2_000)) < share
    y = (generator.random(is_variant.shape) < rate).astype(np.float64)
    total, squares, _ = difference_sums(y, is_variant, share)
    assert (evidence(total, squares) >= -math.log(ALPHA)).any(1).mean() <= ALPHA


def test_outcomes_that_drift_over_the_day_do_not_make_a_difference() -> None:
    generator = np.random.default_rng(0)
    is_variant = generator.random((400, 2_000)) < 0.5
    y = np.broadcast_to(0.5 + 0.5 * np.sin(np.linspace(0, 20, 2_000)), is_variant.shape)
    total, squares, _ = difference_sums(y, is_variant, 0.5)
    assert (evidence(total, squares) >= -math.log(ALPHA)).any(1).mean() <= ALPHA


def test_a_difference_is_found_although_conversions_are_rare() -> None:
    generator = np.random.default_rng(0)
    is_variant = generator.random((20, 20_000)) < 0.5
    y = (generator.random(is_variant.shape) < np.where(is_variant, 0.016, 0.008)).astype(np.float64)
    total, squares, _ = difference_sums(y, is_variant, 0.5)
    assert ((evidence(total, squares) >= -math.log(ALPHA)) & (total > 0)).any(1).mean() > 0.9


@given(st.integers(0, 10**7), shares)
def test_there_is_no_evidence_against_a_ratio_that_is_as_expected(n: int, share: float) -> None:
    assert ratio_evidence(np.array(n * (1 - share)), np.array(n * share), share) <= 1e-9


@pytest.mark.parametrize(("share", "is_off"), [(0.5, False), (0.55, True)])
def test_a_ratio_that_is_off_is_seen_and_one_by_chance_is_not(share: float, is_off: bool) -> None:
    generator = np.random.default_rng(0)
    n_variant = np.cumsum(generator.random((200, 5_000)) < share, 1).astype(np.float64)
    e = ratio_evidence(np.arange(1.0, 5_001) - n_variant, n_variant, 0.5)
    called_off = (e >= -math.log(ALPHA)).any(1).mean()
    assert called_off > 0.95 if is_off else called_off <= ALPHA
