"""Load tests side by side: what is compared, what repeats differ by, and what is not comparable."""

from __future__ import annotations

import msgspec
import pytest

from load_tests.comparison import FIGURES, Comparison, Difference, compare
from load_tests.objective import Objective
from load_tests.verdict import judge
from tests.load_tests.stages import OBJECTIVE, ramp, repeat, result, under, usage

ONE = result("one worker", [repeat(capacity) for capacity in (1_000, 1_020, 990)])
TWO = result("two workers", [repeat(capacity) for capacity in (1_900, 2_000, 1_950)])


def difference(compared: Comparison, figure: str) -> Difference:
    (found,) = [each for each in compared.differences if each.figure == figure]
    return found


def test_figures_are_medians_over_the_repeats_with_the_least_and_the_most() -> None:
    one, two = compare([ONE, TWO]).overlays
    assert (one.name, two.name) == ("one worker", "two workers")
    assert list(one.figures) == list(FIGURES)
    sustained = one.figures["sustained_rate"]
    assert sustained is not None
    assert (sustained.median, sustained.least, sustained.most, sustained.n) == (1_000, 990, 1_020, 3)
    assert two.figures["goodput_at_twice"].median == pytest.approx(1.0)
    assert two.figures["cpu_us"].median == pytest.approx(1e6 * 0.99 / 1_950)


def test_a_difference_is_a_ratio_with_its_range_over_the_repeats() -> None:
    found = difference(compare([ONE, TWO]), "sustained_rate")
    assert (found.name, found.ratio) == ("two workers", 1.95)
    assert (found.least, found.most) == (1_900 / 1_020, 2_000 / 990)
    assert found.is_beyond_spread
    assert found.says == (
        "two workers over one worker: sustained requests/s: 1.95 times (1.86 to 2.02 over repeats, "
        "more than the spread)"
    )


def test_a_difference_that_repeats_show_as_well_is_within_the_spread() -> None:
    other = result("another", [repeat(capacity) for capacity in (1_010, 1_030, 995)])
    found = difference(compare([ONE, other]), "sustained_rate")
    assert found.is_beyond_spread is False
    assert "within the spread" in found.says


def test_with_one_repeat_the_spread_is_unknown() -> None:
    found = difference(compare([ONE, result("once", [repeat(2_000)])]), "sustained_rate")
    assert found.is_beyond_spread is None
    assert found.says.endswith("2 times (one repeat, so the spread is unknown)")


def test_every_result_is_compared_with_the_first() -> None:
    compared = compare([ONE, TWO, result("three workers", [repeat(3_000), repeat(2_900)])])
    found = [each for each in compared.differences if each.figure == "tipping_rate"]
    assert [(each.name, each.ratio) for each in found] == [
        ("two workers", pytest.approx(1.95)),
        ("three workers", pytest.approx(2.95)),
    ]


def test_p99_is_compared_at_rates_at_which_all_met_the_objective() -> None:
    one, two = compare([result("one", [repeat(1_000)]), result("two", [repeat(2_000)])]).overlays
    assert list(one.p99_ms) == list(two.p99_ms) == [400, 600, 800, 900, 1_000]
    assert (one.p99_ms[1_000].median, two.p99_ms[1_000].median) == (90.0, 20.0)


def test_a_result_that_the_generator_limited_has_no_capacity_to_compare() -> None:
    stages = [*ramp()[:6], under(1.1, usage=usage(server=0.9, generator=0.97))]
    limited = result("limited", [judge(stages, OBJECTIVE)])
    compared = compare([ONE, limited])
    assert set(compared.overlays[1].figures.values()) == {None}
    assert {each.figure for each in compared.differences}.isdisjoint(FIGURES)
    assert compared.overlays[1].p99_ms
    assert compared.warnings == ["limited: the generator was the limit, so it has no capacity figure."]


def test_what_a_result_sustains_whose_rates_were_all_met_is_said_to_be_the_least() -> None:
    unlimited = result("unlimited", [judge(ramp()[:3], OBJECTIVE), repeat()])
    assert compare([ONE, unlimited]).warnings == [
        "unlimited: no rate was too much for it, so it sustains at least what stands here."
    ]


def test_results_under_the_same_conditions_are_compared_without_a_warning() -> None:
    assert compare([ONE, TWO]).warnings == []


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        (
            {"circumstances": {"cpu": "Another", "cores": 2}},
            "The cpu differs, so figures are not comparable (one worker: A processor; other: Another).",
        ),
        (
            {"circumstances": {"cpu": "A processor", "cores": 8}},
            "The cores differ, so figures are not comparable (one worker: 2; other: 8).",
        ),
        (
            {"objective": Objective(p99_ms=50)},
            "The objective differs, so figures are not comparable (one worker: p99 under 100 ms and errors under "
            "0.1 %; other: p99 under 50 ms and errors under 0.1 %).",
        ),
        (
            {"mix": {"many": 1.0}},
            "The users' mix differs, so figures are not comparable (one worker: one 1; other: many 1).",
        ),
        (
            {"arrivals": "constant"},
            "The arrivals differ, so figures are not comparable (one worker: poisson; other: constant).",
        ),
        (
            {"deadline_ms": 50.0},
            "The deadline differs, so figures are not comparable (one worker: none; other: 50 ms).",
        ),
        ({"stage_s": 5.0}, "The stage length differs, so figures are not comparable (one worker: 10 s; other: 5 s)."),
    ],
)
def test_results_under_other_conditions_are_said_not_to_be_comparable(changes: dict[str, object], warning: str) -> None:
    assert compare([ONE, result("other", **changes)]).warnings == [warning]


def test_one_result_alone_is_no_comparison() -> None:
    with pytest.raises(ValueError, match="two results or more"):
        compare([ONE])


def test_a_comparison_survives_being_written_as_json() -> None:
    compared = compare([ONE, TWO])
    assert msgspec.json.decode(msgspec.json.encode(compared), type=Comparison) == compared
