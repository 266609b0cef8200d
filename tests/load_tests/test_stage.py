"""What follows from the counts of a stage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.objective import Objective
from tests.load_tests.stages import OBJECTIVE, stage

COUNTS = st.integers(0, 1_000)


def test_rates_are_counts_over_the_seconds_that_count() -> None:
    seen = stage(1_000, seconds=10.0, rows=10.0, refused=400, unsent=100, good=9_000, good_rows=90_000)
    assert (seen.goodput, seen.goodput_rows) == (900, 9_000)
    assert (seen.throughput, seen.achieved_rate) == (950, 990)
    assert seen.errors == pytest.approx(0.05)


@given(COUNTS, COUNTS, COUNTS, COUNTS)
def test_errors_are_all_that_got_no_right_answer_for_whatever_reason(
    refused: int, failed: int, wrong: int, unsent: int
) -> None:
    seen = stage(1_000, refused=refused, failed=failed, wrong=wrong, unsent=unsent)
    assert seen.errors == pytest.approx((refused + failed + wrong + unsent) / seen.due)
    assert seen.goodput <= seen.throughput <= seen.achieved_rate <= seen.rate


def test_the_objective_is_met_up_to_and_including_its_limits() -> None:
    assert stage(p99_ms=100.0, refused=10).meets(OBJECTIVE)
    assert not stage(p99_ms=100.1, refused=10).meets(OBJECTIVE)
    assert not stage(p99_ms=100.0, refused=11).meets(OBJECTIVE)


def test_a_refusal_is_an_error_as_much_as_a_failure() -> None:
    assert not stage(refused=100).meets(OBJECTIVE)
    assert not stage(failed=100).meets(OBJECTIVE)
    assert not stage(wrong=100).meets(OBJECTIVE)
    assert not stage(unsent=100).meets(OBJECTIVE)


def test_without_a_right_answer_no_objective_is_met() -> None:
    assert not stage(p99_ms=None, failed=10_000).meets(Objective(errors=1.0))


def test_a_stage_in_which_nothing_was_due_has_no_errors_and_meets_nothing() -> None:
    seen = stage(0, p99_ms=None)
    assert seen.errors == 0
    assert not seen.meets(OBJECTIVE)
