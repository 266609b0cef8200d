"""The timer fires when it is set to, and never before."""

from __future__ import annotations

import select
from collections.abc import Iterator
from time import perf_counter

import pytest

from load_tests.open_loop.timer import Timer


@pytest.fixture
def timer() -> Iterator[Timer]:
    """A timer that is not set."""
    made = Timer()
    yield made
    made.close()


def is_readable(timer: Timer, timeout_s: float | None) -> bool:
    """Whether the timer has fired, or does within `timeout_s`."""
    return bool(select.select([timer.fd], [], [], timeout_s)[0])


@pytest.mark.parametrize("ahead_s", [0.0001, 0.0105, 0.02])
def test_a_timer_fires_at_its_moment_and_not_before(timer: Timer, ahead_s: float) -> None:
    at_s = perf_counter() + ahead_s
    timer.set(at_s)
    assert is_readable(timer, None)
    assert perf_counter() >= at_s


def test_a_moment_that_has_passed_fires_at_once(timer: Timer) -> None:
    timer.set(perf_counter() - 1)
    assert is_readable(timer, None)


def test_a_timer_that_has_fired_and_is_set_anew_waits_again(timer: Timer) -> None:
    timer.set(perf_counter())
    assert is_readable(timer, None)
    timer.set(perf_counter() + 3600)
    assert not is_readable(timer, 0)
