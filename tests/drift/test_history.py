"""Windows in time: folding loses and doubles no row, and a span takes what touches it."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from causeway.drift.history import Stretch, fold
from tests.drift.tiny import UNTIMED, drawn, scores


def stretch(opened: float, n_rows: int) -> Stretch:
    """Ten seconds long."""
    X = drawn(n_rows, 0)
    return Stretch(opened, opened + 10, UNTIMED.count(X, scores(X)))


@given(sizes=st.lists(st.integers(0, 40), max_size=12), n_rows=st.integers(1, 100))
def test_folded_windows_have_enough_rows_each_once_and_in_order(sizes: list[int], n_rows: int) -> None:
    stretches = [stretch(10 * i, size) for i, size in enumerate(sizes)]
    folded = fold(stretches, n_rows)
    assert all(n_rows <= each.window.rows < n_rows + 40 for each in folded)
    assert 0 <= sum(sizes) - sum(each.window.rows for each in folded) < n_rows
    assert all(after.opened == before.closed for before, after in pairwise(folded))


@given(sizes=st.lists(st.integers(0, 40), max_size=12))
def test_a_folded_window_stays_as_it_is_when_more_comes(sizes: list[int]) -> None:
    stretches = [stretch(10 * i, size) for i, size in enumerate(sizes)]
    before, after = fold(stretches[:-1], 50), fold(stretches, 50)
    assert after[: len(before)] == before
