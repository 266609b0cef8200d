"""What rates a search offers, to servers whose capacity is known."""

from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests import verdict
from load_tests.ramp import BELOW, BEYOND, LEAST_STEP, PRECISION, TRIES, TURNS, search
from load_tests.ramp import given as given_rates
from load_tests.stage import Stage
from tests.load_tests.stages import OBJECTIVE, stage, usage


def server(capacity: float, **changes: object) -> Callable[[float], Stage]:
    """It meets the objective up to its capacity."""
    return lambda rate: stage(rate, p99_ms=20 if rate <= capacity else 200, **changes)


def rates(measure: Callable[[float], Stage]) -> list[float]:
    """What a search offers it."""
    return [stage.rate for stage in search(measure, OBJECTIVE)]


@given(st.floats(3, 50_000))
def test_the_tipping_point_is_found_within_its_precision(capacity: float) -> None:
    stages = list(search(server(capacity), OBJECTIVE))
    sustained, tipping = verdict.sustained_rate(stages, OBJECTIVE), verdict.tipping_rate(stages, OBJECTIVE)
    assert sustained is not None
    assert tipping is not None
    assert sustained <= capacity < tipping
    assert tipping - sustained <= max(PRECISION * tipping, LEAST_STEP)
    first = [stage for stage in stages if not stage.in_turn]
    assert [stage.rate for stage in first[-5:]] == [times * tipping for times in (*BELOW, BEYOND)]
    assert len(first) < 39
    assert len(stages) == len(first) + 2 * TURNS


def test_in_the_end_twice_the_tipping_rate_is_offered_in_turn_with_the_rate_that_had_the_most_goodput() -> None:
    def server(rate: float) -> Stage:
        return stage(rate, refused=round(10 * max(0.0, rate - 160)))

    found = list(search(server, OBJECTIVE))
    tipping = verdict.tipping_rate(found, OBJECTIVE)
    assert tipping is not None
    turns = [stage for stage in found if stage.in_turn]
    assert found[-2 * TURNS :] == turns
    peak = turns[0].rate
    assert tipping <= peak < 2 * tipping
    assert [stage.rate for stage in turns] == [peak, 2 * tipping] * TURNS
    assert turns[0].goodput == max(stage.goodput for stage in found if stage.rate < 2 * tipping)


def test_a_rate_that_meets_the_objective_in_its_turn_has_tipped_over_all_the_same() -> None:
    n_at = dict[float, int]()

    def server(rate: float) -> Stage:
        n_at[rate] = n_at.get(rate, 0) + 1
        few = 20 if rate > 150 and n_at[rate] <= 2 else 0
        return stage(rate, refused=1_000 if rate > 160 else few)

    found = list(search(server, OBJECTIVE))
    assert [stage.rate for stage in found if stage.in_turn and stage.meets(OBJECTIVE)] == [156.25] * TURNS
    judged = verdict.judge(found, OBJECTIVE)
    assert (judged.sustained_rate, judged.tipping_rate) == (150, 156.25)


def test_a_rate_is_offered_in_doubles_then_halfway_and_twice_where_it_fails() -> None:
    assert rates(server(150))[:6] == [100, 200, 200, 150, 175, 175]


def test_a_stage_that_was_disturbed_is_offered_once_more_and_does_not_end_the_search() -> None:
    disturbed = iter([stage(100, p99_ms=900)])
    found = list(search(lambda rate: next(disturbed, None) or server(800)(rate), OBJECTIVE))
    assert [stage.rate for stage in found][:4] == [100, 100, 200, 400]
    assert verdict.judge(found, OBJECTIVE).tipping_rate == pytest.approx(800, rel=PRECISION)


def test_a_disturbed_stage_below_the_tipping_point_does_not_change_it() -> None:
    below = 0.3 * rates(server(150))[-1] / 2
    disturbed = iter([stage(below, p99_ms=900)])
    found = list(search(lambda rate: (rate == below and next(disturbed, None)) or server(150)(rate), OBJECTIVE))
    assert [each.rate for each in found].count(below) == 2
    assert verdict.tipping_rate(found, OBJECTIVE) == pytest.approx(150, rel=PRECISION)


def test_a_search_ends_where_the_generator_is_the_limit() -> None:
    assert rates(server(150, usage=usage(generator=0.97))) == [100, 200, 200]


def test_a_rate_at_which_the_generator_was_late_with_time_left_is_offered_again() -> None:
    late = iter([stage(200, p99_ms=900, late_p99_ms=300)] * 2)
    found = list(search(lambda rate: (rate == 200 and next(late, None)) or server(800)(rate), OBJECTIVE))
    assert [stage.rate for stage in found][:5] == [100, 200, 200, 200, 400]
    assert verdict.judge(found, OBJECTIVE).tipping_rate == pytest.approx(800, rel=PRECISION)


def test_a_late_stage_beside_failed_ones_does_not_make_the_generator_the_limit() -> None:
    n_past = count()
    past = lambda rate: stage(rate, p99_ms=900, late_p99_ms=300 if next(n_past) % 2 else 0.2)  # noqa: E731
    found = list(search(lambda rate: past(rate) if rate > 150 else server(150)(rate), OBJECTIVE))
    assert [stage.rate for stage in found][:4] == [100, 200, 200, 200]
    assert verdict.judge(found, OBJECTIVE).tipping_rate == pytest.approx(150, rel=PRECISION)


def test_a_generator_that_is_always_late_is_the_limit() -> None:
    found = list(search(server(150, late_p99_ms=300), OBJECTIVE))
    assert [stage.rate for stage in found] == [100, *[200] * TRIES]
    assert verdict.judge(found, OBJECTIVE).limit == "generator"


def test_given_rates_are_offered_once_each_and_again_where_the_generator_was_late() -> None:
    late = iter([stage(400, p99_ms=900, late_p99_ms=300)])
    found = given_rates(
        lambda rate: (rate == 400 and next(late, None)) or server(150)(rate), (100, 200, 400), OBJECTIVE
    )
    assert [stage.rate for stage in found] == [100, 200, 400, 400]


def test_a_search_ends_with_a_server_that_bears_nothing_and_with_one_that_bears_everything() -> None:
    assert rates(server(0))[-1] < 2
    assert rates(server(1e12))[-1] >= 1e6
