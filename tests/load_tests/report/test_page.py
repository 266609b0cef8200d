"""The page stands alone, says what is known to everybody who reads it, and nothing that is not known."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import pytest
from msgspec.structs import replace

from load_tests.comparison import compare
from load_tests.report import page
from load_tests.result import Repeat
from load_tests.scaling import MODELS
from tests.load_tests import stages
from tests.load_tests.report.pages import Page, cut_short, limited, ramp, spike

HOSTILE = "<script>alert('$1$')</script>&amp;"


def compared() -> Page:
    results = [ramp(), ramp("other"), limited()]
    return Page(page.comparison(results, compare(results)))


@cache
def of_limited() -> Page:
    return Page(page.report(limited()))


@cache
def of_ramp() -> Page:
    return Page(page.report(ramp()))


PAGES: dict[str, Callable[[], Page]] = {
    "ramp": of_ramp,
    "limited": of_limited,
    "spike": lambda: Page(page.report(spike())),
    "comparison": compared,
}


@pytest.fixture(scope="module", params=PAGES)
def read(request: pytest.FixtureRequest) -> Page:
    """Each kind of page."""
    return PAGES[request.param]()


def test_a_page_refers_to_nothing_outside_itself(read: Page) -> None:
    assert not read.attributes("src")
    assert all(target.startswith("#") for target in read.attributes("href"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", read.html))
    assert not re.search(r"@import|<script|<link|<iframe", read.html)


def test_what_is_referred_to_is_there_once(read: Page) -> None:
    ids = read.attributes("id")
    assert len(ids) == len(set(ids))
    targets = [*read.attributes("href"), *re.findall(r"url\(([^)]*)\)", read.html)]
    assert targets
    assert {target.removeprefix("#") for target in targets} <= set(ids)


def test_whoever_sees_no_plots_is_told_what_is_in_them(read: Page) -> None:
    plots = [attributes["aria-label"] for _, attributes in read.tags if attributes.get("role") == "img"]
    assert len(plots) == sum(tag == "svg" for tag, _ in read.tags) > 0
    assert all(re.search(r": from [\d-]", alt) for alt in plots)
    assert not any(tag == "img" for tag, _ in read.tags)


def test_every_head_of_a_table_says_what_it_heads(read: Page) -> None:
    heads = [attributes for tag, attributes in read.tags if tag == "th"]
    assert heads
    assert all(attributes["scope"] in ("row", "col") for attributes in heads)


def test_the_sentence_comes_first() -> None:
    said = of_ramp().text.replace("\N{NARROW NO-BREAK SPACE}", " ")
    assert said.index(ramp().says) < said.index("What was asked")


def test_plots_follow_the_paper_between_light_and_dark() -> None:
    assert "currentColor" in of_ramp().html
    assert "var(--grid)" in of_ramp().html
    assert "prefers-color-scheme: dark" in of_ramp().html


def test_a_ramp_that_tipped_over_shows_where_and_what_was_predicted() -> None:
    for said in ("tipping point", "predicted", "ideal", "Predicted beside measured tipping point", "they agree"):
        assert said in of_ramp().text
    for plot in ("goodput", "latency", "users", "server-times", "batches", "errors", "cpu", "repeats", "models-p99-ms"):
        assert f"{plot}-figure_1" in of_ramp().attributes("id")


def test_where_the_generator_was_the_limit_no_capacity_is_shown() -> None:
    read = of_limited()
    assert ("p", {"class": "verdict alarm"}) in read.tags
    assert "The generator was the limit" in read.text
    assert not re.search("sustain|tipping point|predicts|Fitted|Repeats\n", read.text, re.IGNORECASE)


def test_repeats_that_are_far_apart_are_said_to_be() -> None:
    apart = stages.result(repeats=[stages.repeat(1_000.0), stages.repeat(1_500.0)])
    assert "they do not agree" in page.agreement(apart)


def test_a_repeat_without_a_capacity_is_no_agreement() -> None:
    none = Repeat([], None, 100.0, "p99 is 120 ms", "server")
    assert "Not every repeat" in page.agreement(replace(ramp(), repeats=[stages.repeat(), none]))


def test_texts_of_others_stay_texts() -> None:
    usual = spike(HOSTILE)
    options = replace(usual.options, command=HOSTILE, model=HOSTILE, settings={HOSTILE: HOSTILE})
    stage = replace(usual.repeats[0].stages[0], faults={HOSTILE: 1})
    hostile = replace(
        usual,
        options=options,
        says=HOSTILE,
        repeats=[Repeat([stage], None, None, HOSTILE, "none")],
        checks=[replace(usual.checks[0], name=HOSTILE, says=HOSTILE)],
        circumstances={"commit": HOSTILE, "ended_early": HOSTILE},
    )
    read = Page(page.report(hostile))
    assert "script" not in {tag for tag, _ in read.tags}
    assert read.text.count(HOSTILE) == 12


def test_names_of_others_stay_text_in_plots_too() -> None:
    results = [ramp(HOSTILE), ramp("other")]
    read = Page(page.comparison(results, compare(results)))
    assert "script" not in {tag for tag, _ in read.tags}


def test_a_test_that_ended_before_its_first_stage_has_a_page() -> None:
    read = Page(page.report(cut_short()))
    assert "Ended early: the server ended" in read.text


def test_every_model_says_what_it_assumes() -> None:
    assert set(page.ASSUMES) == set(MODELS)


def test_a_number_is_not_broken_between_lines() -> None:
    assert page.unbroken("1 234 567/s over 3 repeats of 1 500") == "1\u202f234\u202f567/s over 3 repeats of 1\u202f500"


def test_plots_leave_out_what_nobody_saw() -> None:
    names = {plot.name for plot in page.plots(spike())}
    assert names == {"answers-over-time", "latency-over-time", "handles-over-time", "cpu-over-time"}
