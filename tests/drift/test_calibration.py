"""Calibration: bins that suit the values, and thresholds that chance exceeds no more often than is stated."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from causeway.contract import Array
from causeway.drift import calibration
from causeway.drift.calibration import N_BINS, RATE, Samples, calibrate
from causeway.drift.comparison import compare
from causeway.drift.reference import Column, Reference
from tests.drift.tiny import HELD_OUT, NAMES, TIMED, TRAINING, UNTIMED, drawn, rows, scores


@pytest.fixture
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests that are about bins."""
    monkeypatch.setattr(calibration, "DRAWS", 100)
    monkeypatch.setattr(calibration, "MOST_DRAWS", 100)


def made_of(values: Array) -> Column:
    """The column of one feature."""
    X = np.asarray(values, dtype=np.float32)[:, None]
    return calibrate(("x", "p"), Samples(X, X, np.linspace(0, 1, len(X))), 0).columns[0]


FEW = settings(max_examples=25, deadline=None)


@pytest.mark.usefixtures("few_draws")
@FEW
@given(arrays(np.float32, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32)))
def test_bins_hold_every_row_and_the_open_ones_none(values: Array) -> None:
    column = made_of(values)
    assert sum(column.counts) == len(values)
    assert column.counts[0] == column.counts[-1] == 0
    assert list(column.edges) == sorted(set(column.edges))
    assert (column.minimum, column.maximum) == (values.min(), values.max())


@pytest.mark.usefixtures("few_draws")
@FEW
@given(arrays(np.float32, st.integers(2, 300), elements=st.integers(0, 5).map(float)))
def test_two_values_are_told_apart_wherever_a_column_has_them(values: Array) -> None:
    assume(len(np.unique(values)) > 1)
    assert np.count_nonzero(made_of(values).counts) >= 2


@pytest.mark.usefixtures("few_draws")
def test_a_feature_with_many_values_has_bins_of_about_as_many_rows() -> None:
    column = made_of(np.random.default_rng(0).lognormal(size=10_000))
    inner = np.array(column.counts[1:-1])
    assert len(inner) == N_BINS
    assert not column.is_few_valued
    assert inner.min() > 0.04 * 10_000
    assert inner.max() < 0.06 * 10_000


@pytest.mark.usefixtures("few_draws")
def test_a_feature_with_few_values_has_a_bin_for_each_that_is_not_rare() -> None:
    column = made_of(np.repeat([0, 1, 2, 3, 4], [500, 300, 197, 2, 1]))
    assert column.is_few_valued
    assert column.counts == [0, 500, 300, 200, 0]


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("share", [0.002, 0.998])
def test_a_yes_that_is_rare_has_its_own_bin(share: float) -> None:
    assert made_of(np.arange(1_000) < 1_000 * share).counts == [0, 1_000 - 1_000 * share, 1_000 * share, 0]


@pytest.mark.usefixtures("few_draws")
def test_a_column_of_one_value_has_bins_of_less_and_of_more() -> None:
    column = made_of(np.full(500, 3.0))
    assert column.counts == [0, 500, 0]
    X = np.array([[2.9], [3.0], [3.1]], dtype=np.float32)
    assert Reference((column, column)).count(X, X[:, 0]).counts[0].tolist() == [1, 1, 1]


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize("kind", ["few", "many", "one"])
def test_a_value_computed_a_little_differently_stays_in_its_bin(kind: str) -> None:
    rng = np.random.default_rng(0)
    values = {"few": rng.integers(0, 3, 2_000) / 3, "many": rng.integers(0, 200, 2_000) / 3, "one": np.full(2_000, 0.3)}
    sample = values[kind].astype(np.float32)
    column = made_of(sample)
    for factor in (1 - 1e-6, 1 + 1e-6):
        again = column.count(np.sort(sample * np.float32(factor)))
        assert again.tolist() == column.counts


def test_windows_drawn_from_the_reference_alarm_no_more_often_than_stated() -> None:
    n_windows = 600
    for n_rows in (250, 2_000):
        windows = (drawn(n_rows, seed) for seed in range(n_windows))
        alarms = sum(compare(UNTIMED, UNTIMED.count(X, scores(X))).is_drifted for X in windows)
        assert alarms <= RATE * n_windows + 3 * np.sqrt(RATE * n_windows)


def test_the_error_of_a_small_reference_is_in_its_thresholds() -> None:
    small = HELD_OUT[::40]
    reference = calibrate(NAMES, Samples(TRAINING, small, scores(small)), 0)
    alarms = 0
    for seed in range(30):
        X = drawn(16_000, seed)
        alarms += compare(reference, reference.count(X, scores(X))).columns[0].is_drifted
    assert alarms <= 2
    assert (reference.columns[0].threshold("ks", 16_000) or 0) > 1.5 * (UNTIMED.columns[0].threshold("ks", 16_000) or 9)


def test_what_repeats_every_day_does_not_alarm_in_windows_of_a_part_of_it() -> None:
    X = rows(8_000, 3)
    for start in range(0, 8_000, 250):
        part = X[start : start + 250]
        window = UNTIMED.count(part, scores(part))
        assert not compare(TIMED, window).is_drifted
        assert "night" in compare(UNTIMED, window).drifted


def test_what_repeats_every_day_is_found_changed_in_windows_of_days() -> None:
    X = rows(4_000, 3)
    X[:, 1] = np.arange(4_000) % 1_000 < 350
    assert compare(TIMED, TIMED.count(X, scores(X))).drifted == ("night",)


def test_a_column_whose_rows_do_not_depend_on_each_other_has_no_design_effect_to_speak_of() -> None:
    amount, night = TIMED.columns[0], TIMED.columns[1]
    assert max(amount.dependence["psi"][:2]) < 1.5
    assert night.dependence["psi"][0] > 50
    assert TIMED.is_in_time_order
    assert not UNTIMED.is_in_time_order
    assert UNTIMED.columns[1].dependence == {}


@pytest.mark.usefixtures("few_draws")
def test_held_out_rows_are_put_in_order_before_dependence_is_measured() -> None:
    shuffled = np.random.default_rng(0).permutation(len(HELD_OUT))
    X = HELD_OUT[shuffled]
    time = np.datetime64("2024-01-01", "s") + shuffled
    in_order = np.datetime64("2024-01-01", "s") + np.arange(len(HELD_OUT))
    expected = calibrate(NAMES, Samples(TRAINING, HELD_OUT, scores(HELD_OUT), in_order), 0)
    assert calibrate(NAMES, Samples(TRAINING, X, scores(X), time), 0).to_json() == expected.to_json()


@pytest.mark.usefixtures("few_draws")
def test_the_dependence_of_sizes_that_do_not_fit_grows_as_it_did() -> None:
    few = HELD_OUT[:3_000]
    time = np.datetime64("2024-01-01", "s") + np.arange(3_000)
    reference = calibrate(NAMES, Samples(TRAINING, few, scores(few), time), 0)
    first, second, *rest = reference.columns[0].dependence["ks"]
    growth = max(second / first, 1.0)
    assert rest == pytest.approx([second * growth, second * growth**2, second * growth**3])


@pytest.mark.usefixtures("few_draws")
def test_rows_too_few_for_any_window_leave_the_thresholds_as_they_are() -> None:
    few = HELD_OUT[:500]
    time = np.datetime64("2024-01-01", "s") + np.arange(500)
    reference = calibrate(NAMES, Samples(TRAINING, few, scores(few), time), 0)
    assert reference.columns[0].dependence["psi"] == [1.0] * 5


@pytest.mark.usefixtures("few_draws")
def test_a_reference_of_more_columns_than_the_draws_allow_for_states_a_larger_rate() -> None:
    assert UNTIMED.rate == RATE
    X = np.random.default_rng(0).normal(size=(300, 9)).astype(np.float32)
    assert calibrate([*"abcdefghi", "p"], Samples(X, X, X[:, 0]), 0).rate == pytest.approx(10 * 3 / 100)
