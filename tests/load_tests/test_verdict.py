"""What is said of a ramp: rates, reasons and sentences."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from load_tests.objective import Objective
from load_tests.stage import ServerSide, Stage
from load_tests.verdict import (
    at_rate,
    by_rate,
    degradation,
    generator_fault,
    is_generator_limited,
    judge,
    median_repeat,
    number,
    sent_share,
    sentence,
    spread,
    sustained_rate,
    tipping_rate,
)
from tests.load_tests.stages import OBJECTIVE, ramp, repeat, stage, under, usage

stages = st.lists(
    st.builds(
        stage,
        rate=st.sampled_from([100.0, 200.0, 400.0, 1_000.0]),
        p99_ms=st.one_of(st.none(), st.floats(1, 200)),
        refused=st.integers(0, 100),
        unsent=st.integers(0, 50),
        rows=st.sampled_from([1.0, 10.9]),
        late_p99_ms=st.floats(0, 20),
        usage=st.builds(usage, st.floats(0, 2), st.floats(0, 1), st.floats(0, 1)),
    ),
    max_size=8,
)


def test_the_sustained_rate_is_the_highest_that_met_the_objective_below_the_first_that_did_not() -> None:
    ramp = [stage(100), stage(200), stage(300, p99_ms=140), stage(400)]
    assert sustained_rate(ramp, OBJECTIVE) == 200
    assert tipping_rate(ramp, OBJECTIVE) == 300


def test_the_order_in_which_rates_were_offered_does_not_matter() -> None:
    ramp = [stage(400, p99_ms=140), stage(100), stage(300, p99_ms=140), stage(200)]
    assert (sustained_rate(ramp, OBJECTIVE), tipping_rate(ramp, OBJECTIVE)) == (200, 300)


def test_a_rate_that_failed_once_and_then_met_the_objective_was_disturbed() -> None:
    ramp = [stage(100), stage(200, p99_ms=140), stage(200), stage(300, p99_ms=140), stage(300, p99_ms=150)]
    assert (sustained_rate(ramp, OBJECTIVE), tipping_rate(ramp, OBJECTIVE)) == (200, 300)


@given(stages)
def test_the_sustained_rate_is_below_the_tipping_rate(stages: list[Stage]) -> None:
    sustained, tipping = sustained_rate(stages, OBJECTIVE), tipping_rate(stages, OBJECTIVE)
    assert sustained is None or tipping is None or sustained < tipping
    assert not stages or sustained is not None or tipping is not None


@given(stages, stages)
def test_no_capacity_is_given_where_the_generator_was_the_limit(one: list[Stage], other: list[Stage]) -> None:
    repeats = [judge(one, OBJECTIVE), judge(other, OBJECTIVE)]
    says = sentence(repeats, OBJECTIVE)
    assert ("No capacity figure" in says) == is_generator_limited(repeats)
    assert not (is_generator_limited(repeats) and "ustains" in says)
    for limited in (judged for judged in repeats if judged.limit == "generator"):
        assert limited.sustained_rate is limited.tipping_rate is None


@pytest.mark.parametrize(
    ("stage", "limit", "why"),
    [
        (
            stage(p99_ms=140, usage=usage(server=0.99)),
            "server",
            "p99 is 140 ms: the server's busiest process uses 0.99 of a core",
        ),
        (
            stage(refused=310, usage=usage(server=0.97), server_side=ServerSide(refusals={"overloaded": 310.0})),
            "server",
            "3.1 % of the requests are refused (overloaded): the server's busiest process uses 0.97 of a core",
        ),
        (
            stage(failed=20, p99_ms=140, faults={"no answer": 15, "502": 5}, usage=usage(server=1.6)),
            "server",
            "p99 is 140 ms and 0.2 % of the requests fail (no answer): the server's busiest process uses 1.60 cores",
        ),
        (
            stage(wrong=20, usage=usage(machine=0.98)),
            "machine",
            "0.2 % of the requests get a wrong answer: the machine's cores are busy for 98 % of the time, "
            "the server's busiest process with 0.30 of a core",
        ),
        (
            stage(p99_ms=140),
            "latency",
            "p99 is 140 ms: not for want of CPU, the server's busiest process uses 0.30 of a core",
        ),
        (
            stage(p99_ms=140, usage=usage(server=None)),
            "latency",
            "p99 is 140 ms: the generator has time left, and the server's CPU cannot be seen from here",
        ),
        (
            stage(p99_ms=None, failed=10_000),
            "latency",
            "100 % of the requests fail: not for want of CPU, the server's busiest process uses 0.30 of a core",
        ),
        (
            stage(p99_ms=140, usage=usage(server=0.99, generator=0.97)),
            "generator",
            "at 1 000 requests/s the generator was the limit: its busiest process uses 0.97 of a core",
        ),
        (stage(), "none", "every rate met the objective"),
    ],
)
def test_the_reason_says_what_was_missed_and_what_had_nothing_left(stage: Stage, limit: str, why: str) -> None:
    judged = judge([stage], OBJECTIVE)
    assert (judged.limit, judged.why) == (limit, why)


def test_a_generator_that_is_late_by_a_tenth_of_the_objective_measures_itself() -> None:
    assert generator_fault(stage(late_p99_ms=10.0), OBJECTIVE) is None
    assert generator_fault(stage(late_p99_ms=14.0), OBJECTIVE) == "it turns to requests 14 ms late (p99)"


def test_too_few_connections_are_the_generators_fault_unless_the_server_is_slow_or_busy() -> None:
    few, enough = {"unsent": 120, "connections": 64}, {"unsent": 120, "connections": 100}
    said = "1.2 % of the requests find none of its 64 connections free"
    assert generator_fault(stage(1_000, **few), OBJECTIVE) == said
    assert generator_fault(stage(1_000, **enough), OBJECTIVE) is None
    assert generator_fault(stage(1_000, usage=usage(server=0.95), **few), OBJECTIVE) is None


def test_the_sentence_says_capacity_objective_generator_and_reason() -> None:
    assert sentence([repeat(14_200)], OBJECTIVE) == (
        "Sustains 14 200 predictions/s with p99 under 100 ms and errors under 0.1 % (generator at 20 % of a core); "
        "tips over at 15 600 predictions/s because 9.09 % of the requests are refused (overloaded): "
        "the server's busiest process uses 0.99 of a core. At twice that, goodput is 100 % of its peak."
    )


def test_where_a_request_has_several_rows_the_sentence_tells_predictions_from_requests() -> None:
    says = sentence([repeat(1_000, rows=10.0)], OBJECTIVE)
    assert says.startswith("Sustains 10 000 predictions/s (1 000 requests/s) with")
    assert "tips over at 11 000 predictions/s (1 100 requests/s) because" in says


def test_where_nothing_tipped_over_the_sentence_says_at_least() -> None:
    assert sentence([judge([stage(100), stage(200)], OBJECTIVE)], OBJECTIVE) == (
        "Sustains at least 200 predictions/s with p99 under 100 ms and errors under 0.1 % "
        "(generator at 20 % of a core); every rate met the objective."
    )


def test_where_nothing_met_the_objective_the_sentence_says_so() -> None:
    assert sentence([judge([stage(200, p99_ms=150), stage(100, p99_ms=140)], OBJECTIVE)], OBJECTIVE) == (
        "Does not keep to p99 under 100 ms and errors under 0.1 % at any rate: at 100 predictions/s, the lowest, "
        "p99 is 140 ms: not for want of CPU, the server's busiest process uses 0.30 of a core."
    )


def test_where_the_generator_was_the_limit_in_any_repeat_the_sentence_says_only_that() -> None:
    limited = judge([stage(100), stage(200, p99_ms=140, usage=usage(generator=0.95))], OBJECTIVE)
    assert sentence([repeat(), limited], OBJECTIVE) == (
        "No capacity figure: at 200 requests/s the generator was the limit: its busiest process uses 0.95 of a core."
    )


def test_the_sentence_says_how_far_goodput_falls_at_twice_the_tipping_rate() -> None:
    falls = judge([stage(100), stage(200, p99_ms=140, good=1_600), stage(400, p99_ms=140, good=800)], OBJECTIVE)
    assert "At twice that, goodput is 50 % of its peak." in sentence([falls], OBJECTIVE)
    repeats = [falls, repeat(), repeat()]
    assert "At twice that, goodput is 100 % of its peak (50 to 100 %). Median of" in sentence(repeats, OBJECTIVE)
    assert "twice" not in sentence([judge([stage(100), stage(200, p99_ms=140)], OBJECTIVE)], OBJECTIVE)


def test_where_nothing_was_measured_the_sentence_says_so() -> None:
    assert sentence([], OBJECTIVE) == sentence([judge([], OBJECTIVE)], OBJECTIVE) == "Nothing was measured."


def test_repeats_that_agree_give_their_median() -> None:
    says = sentence([repeat(1_000), repeat(960), repeat(990)], OBJECTIVE)
    assert says.startswith("Sustains 990 predictions/s")
    assert says.endswith("Median of 3 repeats, which agree within 4.04 %.")


def test_repeats_that_do_not_agree_are_said_to_be_how_far_apart() -> None:
    says = sentence([repeat(1_000), repeat(1_400), repeat(900)], OBJECTIVE)
    assert says.endswith("Median of 3 repeats, which are 50 % apart: 900 to 1 400 predictions/s.")
    none = judge([stage(p99_ms=140)], OBJECTIVE)
    assert sentence([none, none, repeat()], OBJECTIVE).endswith("which are far apart: 0 to 1 000 predictions/s.")


def test_the_median_of_an_even_number_of_repeats_is_one_of_them() -> None:
    assert median_repeat([repeat(1_000), repeat(900), repeat(1_100), repeat(950)]).sustained_rate == 950


def test_degradation_is_the_goodput_past_the_tipping_point_over_its_peak() -> None:
    stages = [stage(100), stage(200, p99_ms=140, good=1_600), stage(300, good=900), stage(500, good=800)]
    judged = judge(stages, OBJECTIVE)
    assert degradation(judged, OBJECTIVE, 1.5) == 90 / 160
    assert degradation(judged, OBJECTIVE, 2.0) == pytest.approx(85 / 160)
    assert degradation(judged, OBJECTIVE, 3.0) is None


def test_degradation_is_told_by_stages_that_took_turns_where_there_are_any() -> None:
    quick = [stage(100), stage(200, p99_ms=140, good=2_000)]
    turns = [(300, 900), (400, 990), (300, 1_000), (400, 1_000), (300, 1_000), (400, 850)]
    slower = [stage(rate, p99_ms=140, good=good, in_turn=True) for rate, good in turns]
    judged = judge([*quick, *slower], OBJECTIVE)
    assert degradation(judged, OBJECTIVE, 2.0) == 1.0
    late = [slower[0], structs.replace(slower[1], late_p99_ms=300), *slower[2:]]
    assert degradation(judge([*quick, *late], OBJECTIVE), OBJECTIVE, 2.0) == pytest.approx((1.0 + 0.85) / 2)


def test_what_finds_no_connection_past_the_tipping_point_is_told_beside_the_goodput() -> None:
    beyond = under(2.2, unsent=4_400, sent=17_600, usage=usage(server=0.99))
    judged = judge([under(0.9), under(1.1), beyond], OBJECTIVE)
    assert sent_share(judged, OBJECTIVE, 2.0) == pytest.approx(0.8)
    assert degradation(judged, OBJECTIVE, 2.0) is not None
    assert sent_share(judge([under(0.5)], OBJECTIVE), OBJECTIVE, 2.0) is None


def test_predictions_are_counted_by_the_rows_of_all_requests_not_of_all_stages() -> None:
    few = stage(10, rows=50.0)
    says = sentence([judge([few, stage(990, rows=1.0), stage(2_000, rows=1.0, p99_ms=900)], OBJECTIVE)], OBJECTIVE)
    rows = (100 * 50 + 9_900 + 20_000) / 30_000
    assert says.startswith(f"Sustains {number(990 * rows)} predictions/s (990 requests/s)")


def test_degradation_is_unknown_where_the_generator_was_the_limit_or_nothing_tipped() -> None:
    beyond = under(2.2, usage=usage(server=0.99, generator=0.95))
    assert degradation(judge([under(0.5), under(1.1), beyond], OBJECTIVE), OBJECTIVE, 2.0) is None
    assert degradation(judge([under(0.5)], OBJECTIVE), OBJECTIVE, 2.0) is None


def test_a_server_that_refuses_what_is_too_much_does_not_degrade() -> None:
    judged = judge(ramp(), OBJECTIVE)
    assert degradation(judged, OBJECTIVE, 1.5) == degradation(judged, OBJECTIVE, 2.0) == pytest.approx(1.0)


def test_the_objective_decides_what_tips_over() -> None:
    stages = [stage(100, p99_ms=20), stage(200, p99_ms=60)]
    assert tipping_rate(stages, Objective(p99_ms=50)) == 200
    assert tipping_rate(stages, Objective(p99_ms=60)) is None


def test_values_at_one_rate_count_by_their_mean_and_between_rates_in_proportion() -> None:
    values = by_rate([(300, 5.0), (100, 1.0), (100, 3.0)])
    assert values == {100: 2.0, 300: 5.0}
    assert [at_rate(values, rate) for rate in (99, 100, 200, 300, 301)] == [None, 2.0, 3.5, 5.0, None]
    assert at_rate({}, 100) is None


def test_a_spread_leaves_out_what_is_unknown() -> None:
    found = spread([3.0, None, 1.0, 2.0])
    assert found is not None
    assert (found.median, found.least, found.most, found.n, found.share) == (2.0, 1.0, 3.0, 3, 1.0)
    assert spread([None]) is None


@pytest.mark.parametrize(
    ("value", "said"),
    [(14_234, "14 200"), (999.6, "1 000"), (99.96, "100"), (3.1, "3.1"), (0.4119, "0.412"), (0, "0")],
)
def test_numbers_have_three_significant_digits_in_groups_of_three(value: float, said: str) -> None:
    assert number(value) == said
