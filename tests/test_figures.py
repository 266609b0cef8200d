"""What /metrics says of each version is read back as exactly what was noted."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from causeway.contract import Output
from causeway.figures import Counts, Figures, read, requests_by_version
from causeway.monitoring.metrics import SCORE_BUCKETS, VARIANT_BUCKETS_S, Metrics
from causeway.version import ModelVersion
from tests import tiny

Answer = tuple[str, str, int, float]
"""Role, version, status, seconds."""

few = settings(deadline=None, max_examples=30)
"""Each example makes the whole text of /metrics, and reads it."""

seconds = st.sampled_from(VARIANT_BUCKETS_S) | st.floats(1e-6, 60)
answers = st.lists(
    st.tuples(
        st.sampled_from(["champion", "canary"]),
        st.sampled_from(["tiny:a", "tiny:b"]),
        st.sampled_from([200, 200, 200, 400, 499, 500, 503, 504]),
        seconds,
    ),
    max_size=30,
)


@cache
def version(tag: str, output: Output = tiny.CONTRACT.output) -> ModelVersion:
    loaded = ModelVersion.load(tiny.saved())
    contract = msgspec.structs.replace(loaded.contract, output=output)
    return dataclasses.replace(loaded, tag=tag, contract=contract)


def note(metrics: Metrics, noted: Sequence[Answer]) -> dict[str, Figures]:
    """The figures after these answers more."""
    for role, tag, status, took_s in noted:
        metrics.answered("/predict", status, took_s, (role, tag))
    metrics.flush()
    return read(metrics.exposition())


def counted(values: Sequence[float] | NDArray[np.floating], bounds: Sequence[float]) -> Counts:
    """How many values lie in each bucket."""
    counts = np.zeros(len(bounds) + 1)
    for value in values:
        counts[sum(bound < value for bound in bounds)] += 1
    return counts


def of_latencies(*took_s: float) -> Figures:
    return Figures({200: len(took_s)}, counted(took_s, VARIANT_BUCKETS_S))


def assert_equal(one: Figures, other: Figures) -> None:
    assert dict(one.by_status) == dict(other.by_status)
    np.testing.assert_array_equal(one.latencies, other.latencies)
    np.testing.assert_array_equal(one.scores, other.scores)
    assert one.not_finite == other.not_finite


@few
@given(answers)
def test_each_version_has_the_answers_that_it_gave_in_all_its_roles(noted: list[Answer]) -> None:
    statuses, took = defaultdict(Counter), defaultdict(list)
    for _, tag, status, took_s in noted:
        statuses[tag][status] += 1
        took[tag] += [took_s] if status == 200 else []
    found = note(Metrics(CollectorRegistry()), noted)
    assert found.keys() == statuses.keys()
    for tag, figures in found.items():
        assert_equal(figures, Figures(statuses[tag], counted(took[tag], VARIANT_BUCKETS_S)))
        assert figures.requests == statuses[tag].total() - statuses[tag][499]
        assert figures.errors == statuses[tag][500] + statuses[tag][504]
        assert figures.refusals == statuses[tag][503]


@few
@given(answers, answers)
def test_since_a_look_is_what_was_noted_after_it(before: list[Answer], after: list[Answer]) -> None:
    metrics, nothing = Metrics(CollectorRegistry()), Figures()
    first, second = note(metrics, before), note(metrics, after)
    alone = note(Metrics(CollectorRegistry()), after)
    for tag, figures in second.items():
        since = figures.since(first.get(tag, nothing))
        expected = alone.get(tag, nothing)
        since = dataclasses.replace(since, by_status={status: n for status, n in since.by_status.items() if n})
        assert_equal(since, expected)


def test_counters_that_began_again_are_negative_also_where_a_status_is_not_there_any_more() -> None:
    assert Figures({200: 1.0}).since(Figures({200: 5.0, 503: 2.0})).by_status == {200: -4.0, 503: -2.0}


@few
@given(st.lists(st.floats(0, 1, width=32) | st.sampled_from([math.nan, math.inf, -math.inf]), min_size=1))
def test_the_scores_of_a_version_are_read_with_those_that_are_no_numbers(scores: list[float]) -> None:
    metrics = Metrics(CollectorRegistry())
    predictions = np.array(scores, np.float32)
    metrics.scored(version("tiny:a"), predictions[:, np.newaxis])
    (figures,) = note(metrics, []).values()
    finite = predictions[np.isfinite(predictions)].astype(np.float64)
    np.testing.assert_array_equal(figures.scores, counted(finite, SCORE_BUCKETS))
    assert figures.not_finite == len(scores) - len(finite)


def test_scores_are_counted_by_their_place_in_the_contract_s_range() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.scored(version("tiny:wide", Output("p", 1, -10, 30)), np.array([[-10], [10], [30]], np.float32))
    figures = note(metrics, [])["tiny:wide"]
    np.testing.assert_array_equal(figures.scores, counted([0, 0.5, 1], SCORE_BUCKETS))


@given(st.lists(seconds, min_size=1))
def test_p99_is_the_bound_of_the_bucket_that_it_lies_in(took_s: list[float]) -> None:
    exact = np.quantile(took_s, 0.99, method="inverted_cdf")
    bound = next((bound for bound in VARIANT_BUCKETS_S if exact <= bound), math.inf)
    assert of_latencies(*took_s).p99_s() == bound


def test_without_answers_there_is_no_p99_and_nothing_is_slow() -> None:
    assert math.isnan(Figures().p99_s())
    assert Figures().slower_than(0) == 0


@given(st.lists(seconds), st.sampled_from(VARIANT_BUCKETS_S))
def test_at_a_bound_those_that_are_slower_are_counted_exactly(took_s: list[float], bound: float) -> None:
    figures = of_latencies(*took_s)
    assert figures.slower_than(bound) == sum(took > bound for took in took_s)
    just_below = math.nextafter(bound, 0)
    assert figures.slower_than(just_below) == figures.slower_than(bound)


@given(st.lists(seconds), seconds)
def test_between_bounds_nothing_that_was_fast_enough_is_counted(took_s: list[float], limit: float) -> None:
    assert of_latencies(*took_s).slower_than(limit) <= sum(took > limit for took in took_s)


@pytest.mark.parametrize("exposition", ["", "# HELP other_total Something else.\nother_total 3.0\n"])
def test_where_no_version_was_asked_there_are_no_figures(exposition: str) -> None:
    assert read(exposition) == {}


def test_requests_by_version_are_those_that_were_answered_with_200() -> None:
    metrics = Metrics(CollectorRegistry())
    noted = [("champion", "tiny:a", 200, 0.1), ("canary", "tiny:a", 200, 0.1), ("canary", "tiny:b", 503, 0.1)]
    note(metrics, noted)
    assert requests_by_version(metrics.exposition()) == {"tiny:a": 2, "tiny:b": 0}
