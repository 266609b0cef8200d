"""Intervals hold what they say, also for few rows and for rows that say the same."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from causeway.quality.intervals import design_effect, wilson


@given(st.integers(1, 500), st.data())
def test_wilsons_interval_is_scipys(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    expected = binomtest(successes, n).proportion_ci(method="wilson")
    assert wilson(successes / n, n) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_twelve_of_twelve_are_no_certainty() -> None:
    low, high = wilson(1.0, 12)
    assert low == pytest.approx(0.7575, abs=1e-3)
    assert high == 1.0


@given(st.integers(1, 50), st.integers(1, 10))
def test_as_many_rows_of_each_entity_are_worth_one(n_entities: int, size: int) -> None:
    assert design_effect(np.repeat(np.arange(n_entities), size)) == pytest.approx(size)


def test_no_rows_are_worth_what_they_are() -> None:
    assert design_effect(np.array([], dtype=np.int64)) == 1.0
