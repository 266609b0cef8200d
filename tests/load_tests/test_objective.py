"""What is asked of a service, as it is written and said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.objective import Objective, milliseconds, share


@pytest.mark.parametrize(
    ("text", "expected"), [("100ms", 100), ("0.5s", 500), (" 250 us ", 0.25), (".5 s", 500), ("2.ms", 2)]
)
def test_a_duration_is_a_number_with_a_unit(text: str, expected: float) -> None:
    assert milliseconds(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["100", "ms", "-5ms", "0ms", "0.0s", "1h", "1e3ms", "nan ms", ""])
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no duration such as 100ms, 0\.5s or 250us"):
        milliseconds(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("0.1%", 0.001), ("0.001", 0.001), ("5 %", 0.05), ("0", 0), ("1", 1), ("100%", 1)]
)
def test_a_share_is_a_number_or_a_percentage(text: str, expected: float) -> None:
    assert share(text) == pytest.approx(expected)


@pytest.mark.parametrize("text", ["101%", "1.5", "-1%", "few", "%", "nan", ""])
def test_what_is_no_share_is_refused_with_examples(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no share such as 0\.1% or 0\.001"):
        share(text)


def test_an_objective_says_what_it_asks_for() -> None:
    assert str(Objective()) == "p99 under 100 ms and errors under 0.1 %"
    assert str(Objective(p99_ms=2.5, errors=0.05)) == "p99 under 2.5 ms and errors under 5 %"


@given(st.integers(1, 10**6), st.integers(0, 100))
def test_what_is_said_can_be_asked_for(p99_ms: int, percent: int) -> None:
    assert milliseconds(f"{p99_ms}ms") == p99_ms
    assert share(f"{percent}%") == percent / 100
