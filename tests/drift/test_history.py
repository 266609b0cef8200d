"""Windows in time: adding loses and doubles no row, and nothing is concluded too early."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from causeway.drift.history import Stretch
from tests.drift.tiny import UNTIMED, drawn, scores


def stretch(opened: float, closed: float, n_rows: int) -> Stretch:
    X = drawn(n_rows, 0)
    return Stretch(opened, closed, UNTIMED.count(X, scores(X)))


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.integers(0, 40), st.integers(0, 40))
def test_two_stretches_are_one_from_the_first_s_beginning_to_the_last_s_end(
    one: float, other: float, n: int, m: int
) -> None:
    both = stretch(one, one + 10, n) + stretch(other, other + 20, m)
    assert (both.opened, both.closed) == (min(one, other), max(one + 10, other + 20))
    assert both.window.rows == n + m


def test_a_stretch_is_complete_once_it_has_the_rows_and_lasted_long_enough() -> None:
    assert stretch(5, 15, 30).is_complete(30, 10)
    assert not stretch(5, 15, 29).is_complete(30, 10)
    assert not stretch(5, 14.9, 30).is_complete(30, 10)
