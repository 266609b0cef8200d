"""Windows: adding them is counting together, and JSON gives back what it was given."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causeway.drift.reference import Column, Reference
from causeway.drift.window import Window
from tests.drift.tiny import HELD_OUT, UNTIMED, rows, scores


def window(n: int, seed: int = 0) -> Window:
    X = rows(n, seed)
    return UNTIMED.count(X, scores(X))


@given(cuts=st.lists(st.integers(0, 300), max_size=4))
def test_adding_windows_is_counting_all_rows_together(cuts: list[int]) -> None:
    X = HELD_OUT[:300]
    parts = np.split(X, sorted(cuts))
    together, summed = UNTIMED.count(X, scores(X)), UNTIMED.empty()
    for part in parts:
        summed += UNTIMED.count(part, scores(part))
    assert summed.rows == together.rows
    for mine, whole in zip(summed.counts, together.counts, strict=True):
        np.testing.assert_array_equal(mine, whole)
    np.testing.assert_allclose(summed.sums, together.sums)
    np.testing.assert_allclose(summed.squares, together.squares)


@given(n=st.integers(0, 500), seed=st.integers(0, 9))
def test_a_window_survives_json(n: int, seed: int) -> None:
    original = window(n, seed) + UNTIMED.refused({"amount": 2}, {"night": 1})
    assert Window.from_json(original.to_json()) == original
    assert Window.from_json(original.to_json().decode()) == original


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"rows": "many"}'])
def test_what_is_no_window_is_refused(data: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Window.from_json(data)


def test_means_and_standard_deviations_are_those_of_the_values() -> None:
    X = rows(2_000, 4)
    counted = UNTIMED.count(X, scores(X))
    np.testing.assert_allclose(counted.means[:-1], X.mean(axis=0, dtype=np.float64))
    np.testing.assert_allclose(counted.standard_deviations[:-1], X.std(axis=0, dtype=np.float64), atol=1e-6)


def test_a_window_without_rows_has_no_means() -> None:
    assert np.isnan(UNTIMED.empty().means).all()
    assert np.isnan(UNTIMED.empty().standard_deviations).all()


def test_windows_of_different_references_cannot_be_added() -> None:
    column = Column("p", [0.5], [1, 1], 0.5, 0.5, 0.0, 1.0)
    with pytest.raises(ValueError, match="different references"):
        window(10) + Reference((column,)).empty()
