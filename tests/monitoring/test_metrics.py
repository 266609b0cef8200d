"""What is counted, and that nobody can make the number of series grow."""

import http.client
import math
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from causeway.contract import Contract, Output
from causeway.monitoring.metrics import LATENCY_BUCKETS_S, SCORE_BUCKETS, Metrics, Observations, Silent
from causeway.version import ModelVersion
from tests import tiny
from tests.conftest import PATIENCE_S, Server, serving, wait_until


def scraped(server: Server) -> Mapping[str, float]:
    """Series to value, of /metrics."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=PATIENCE_S) as response:
        lines = response.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def status(url: str, body: bytes | None = None) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
            return int(response.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_each_answer_is_counted_by_endpoint_and_status() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for code, seconds in ((200, 0.001), (200, 0.003), (400, 0.2)):
        metrics.answered("/predict", code, seconds)
    assert registry.get_sample_value("causeway_requests_total", {"endpoint": "/predict", "status": "200"}) == 0
    metrics.flush()
    assert registry.get_sample_value("causeway_requests_total", {"endpoint": "/predict", "status": "200"}) == 2
    assert registry.get_sample_value("causeway_requests_total", {"endpoint": "/predict", "status": "400"}) == 1
    assert registry.get_sample_value("causeway_request_duration_seconds_count", {"endpoint": "/predict"}) == 3
    assert (
        registry.get_sample_value("causeway_request_duration_seconds_bucket", {"endpoint": "/predict", "le": "0.0025"})
        == 1
    )
    assert b"# HELP causeway_requests_total Requests that were answered" in generate_latest(registry)


@settings(deadline=None)
@given(st.lists(st.floats(0, 100) | st.sampled_from([*LATENCY_BUCKETS_S, math.inf]), max_size=50))
def test_many_durations_at_once_count_as_each_of_them_would(seconds: list[float]) -> None:
    histograms = [
        Observations("d", "Observations.", ("endpoint",), buckets=LATENCY_BUCKETS_S, registry=CollectorRegistry())
        for _ in range(2)
    ]
    at_once, each = (histogram.labels("/predict") for histogram in histograms)
    at_once.observe_all(seconds)
    for one in seconds:
        each.observe(one)
    samples = [
        {(sample.name, *sample.labels.items()): sample.value for sample in next(iter(histogram.collect())).samples}
        for histogram in histograms
    ]
    for values in samples:  # of no labels, but of the time they were made
        values.pop(("d_created", ("endpoint", "/predict")), None)
    assert samples[0] == pytest.approx(samples[1])


def test_what_the_batcher_and_the_cache_tell_is_counted_when_it_is_flushed() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for n_rows, released in ((16, "idle"), (3, "idle"), (200, "full")):
        metrics.batch(n_rows, released)
    for result in ("miss", "hit", "hit"):
        metrics.looked_up(result)
    metrics.poisoned()
    metrics.refused("overloaded")
    for _ in range(2):
        metrics.flush()
        assert registry.get_sample_value("causeway_rows_total") == 219
        assert registry.get_sample_value("causeway_batches_total", {"released": "idle"}) == 2
        assert registry.get_sample_value("causeway_batches_total", {"released": "full"}) == 1
        assert registry.get_sample_value("causeway_cache_requests_total", {"result": "hit"}) == 2
        assert registry.get_sample_value("causeway_cache_requests_total", {"result": "miss"}) == 1
        assert registry.get_sample_value("causeway_poisoned_requests_total") == 1
        assert registry.get_sample_value("causeway_refusals_total", {"code": "overloaded"}) == 1


def series(registry: CollectorRegistry, name: str) -> dict[tuple[str, ...], float]:
    """Label values, in the order of the labels' names, to value."""
    return {
        tuple(value for _, value in sorted(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == name
    }


def test_where_the_time_of_answers_went_and_how_large_batches_were_is_counted() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    numbers = np.array([(5.0, 0.5, 0.001, 0.002, 0.003, 0.004), (6.0, 2.0, 0.25, 0.5, 0.125, 1.0)])
    metrics.predicted([("champion", "fraud:a"), ("canary", "fraud:b")], numbers)
    metrics.answered("/predict", 400, 2.0)
    for n_rows in (1, 16, 17):
        metrics.batch(n_rows, "full")
    for _ in range(2):
        metrics.flush()
        assert series(registry, "causeway_phase_seconds_sum") == {
            ("decode",): 0.251,
            ("queue",): 0.502,
            ("compute",): 0.128,
            ("encode",): 1.004,
        }
        assert set(series(registry, "causeway_phase_seconds_count").values()) == {2}
        assert series(registry, "causeway_variant_duration_seconds_sum") == {
            ("fraud:a", "champion"): 0.5,
            ("fraud:b", "canary"): 2.0,
        }
        assert series(registry, "causeway_requests_total")["/predict", "200"] == 2
        buckets = series(registry, "causeway_batch_rows_bucket")
        assert [buckets[bound,] for bound in ("1.0", "8.0", "16.0", "32.0", "16384.0")] == [1, 1, 2, 3, 3]


def test_what_is_refused_left_out_and_fed_back_is_counted_from_0_on() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    assert set(series(registry, "causeway_feedback_total").values()) == {0}
    assert set(series(registry, "causeway_prediction_log_left_out_total").values()) == {0}
    assert series(registry, "causeway_refused_values_total") == {}
    for reason in ("missing", "missing", "out_of_range"):
        metrics.refused_value("TX_AMOUNT", reason)
    metrics.feedback("stored", 3)
    metrics.left_out("backlog", 7)
    metrics.flush()
    assert series(registry, "causeway_feedback_total")["stored",] == 3
    assert series(registry, "causeway_prediction_log_left_out_total")["backlog",] == 7
    assert series(registry, "causeway_refused_values_total") == {
        ("TX_AMOUNT", "missing"): 2,
        ("TX_AMOUNT", "out_of_range"): 1,
    }


def test_what_is_under_way_is_asked_for_whenever_it_is_flushed() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    under_way = [(3, 40), (0, 0)]
    metrics.watch(in_flight=lambda: under_way[0][0], queued_rows=lambda: under_way[0][1])
    for in_flight, queued_rows in ((3, 40), (0, 0)):
        metrics.flush()
        assert registry.get_sample_value("causeway_requests_in_flight") == in_flight
        assert registry.get_sample_value("causeway_queued_rows") == queued_rows
        del under_way[0]


def test_how_the_process_fares_is_shown() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    metrics.lagged(0.25)
    metrics.collected(2, 0.5)
    metrics.gpu(1, 0.75, 2**30, 2**34)
    metrics.flush()
    assert series(registry, "causeway_event_loop_lag_seconds_sum") == {(): 0.25}
    assert series(registry, "causeway_gc_pause_seconds_sum") == {("0",): 0, ("1",): 0, ("2",): 0.5}
    assert series(registry, "causeway_gpu_utilization_ratio") == {("1",): 0.75}
    assert series(registry, "causeway_gpu_memory_used_bytes") == {("1",): 2**30}
    assert series(registry, "causeway_gpu_memory_bytes") == {("1",): 2**34}
    assert series(registry, "causeway_process_cpu_seconds_total")["worker",] > 0


def test_a_silent_one_notes_nothing_about_requests_and_shows_what_is_deployed(version: ModelVersion) -> None:
    registry = CollectorRegistry()
    metrics = Silent(registry)
    before = generate_latest(registry)
    metrics.watch(in_flight=lambda: 1, queued_rows=lambda: 1)
    metrics.answered("/predict", 200, 0.1, ("champion", "fraud:a"))
    metrics.predicted([("champion", "fraud:a")], np.zeros((1, 6)))
    metrics.refused("overloaded")
    metrics.batch(1, "idle")
    metrics.scored(version, np.zeros((1, 1), np.float32))
    metrics.looked_up("hit")
    metrics.flush()
    assert generate_latest(registry) == before
    metrics.deployed(7, {("champion", "fraud:a"): 100}, is_followed=True, created={"fraud:a": 1e9})
    assert series(registry, "causeway_state_revision") == {(): 7}
    assert series(registry, "causeway_model_created_timestamp_seconds") == {("fraud:a",): 1e9}


def histogram_quantile(q: float, registry: CollectorRegistry) -> float:
    """What PromQL makes of the answers' latency: linear between the bounds of the bucket that the rank lies in."""
    buckets = series(registry, "causeway_variant_duration_seconds_bucket")
    bounds, counts = zip(*sorted((float(labels[0]), n) for labels, n in buckets.items()), strict=True)
    rank = q * counts[-1]
    place = next(i for i, n in enumerate(counts) if n >= rank)
    low, before = (bounds[place - 1], counts[place - 1]) if place else (0.0, 0.0)
    return low + (bounds[place] - low) * (rank - before) / (counts[place] - before)


def assert_quantiles(seconds: Sequence[float]) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for took_s in seconds:
        metrics.answered("/predict", 200, took_s, ("champion", "fraud:a"))
    metrics.flush()
    for q in (0.5, 0.95, 0.99):
        exact = np.quantile(seconds, q, method="inverted_cdf")
        assert histogram_quantile(q, registry) == pytest.approx(exact, rel=0.05)


@pytest.mark.parametrize("n", [10, 1_000, 100_000])
@pytest.mark.parametrize("median_s", [0.001, 0.01, 0.1])
def test_latencies_are_known_within_5_percent_in_shapes_as_they_come(n: int, median_s: float) -> None:
    rng = np.random.default_rng(n)
    lognormal = median_s * rng.lognormal(0, 0.4, n)
    bimodal = np.where(rng.random(n) < 0.96, lognormal, 8 * median_s * rng.lognormal(0, 0.1, n))
    for seconds in (lognormal, bimodal):
        assert_quantiles(seconds.tolist())


@settings(deadline=None)
@given(st.lists(st.floats(0.0002, 1.95), min_size=1, max_size=200))
def test_latencies_from_200_us_to_2_s_are_known_within_5_percent_however_they_fall(seconds: list[float]) -> None:
    assert_quantiles(seconds)


def test_requests_of_variants_are_counted_by_version_and_timed_where_they_were_answered() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    champion, canary = ("champion", "fraud:a"), ("canary", "fraud:b")
    for status_, seconds, variant in (
        (200, 0.25, champion),
        (200, 0.5, champion),
        (503, 0.001, champion),
        (200, 1.0, canary),
        (400, 0.001, None),
    ):
        metrics.answered("/predict", status_, seconds, variant)
    metrics.flush()
    assert series(registry, "causeway_variant_requests_total") == {
        ("fraud:a", "200", "champion"): 2,
        ("fraud:a", "503", "champion"): 1,
        ("fraud:b", "200", "canary"): 1,
    }
    assert series(registry, "causeway_variant_duration_seconds_count") == {champion[::-1]: 2, canary[::-1]: 1}
    assert series(registry, "causeway_variant_duration_seconds_sum") == {champion[::-1]: 0.75, canary[::-1]: 1.0}
    assert registry.get_sample_value("causeway_requests_total", {"endpoint": "/predict", "status": "200"}) == 3


@pytest.fixture
def impatient() -> Iterator[None]:
    """Threads take turns after every few steps."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.fixture(scope="module")
def version() -> ModelVersion:
    """One whose predictions may be from -1 to 3."""
    contract = Contract(tiny.CONTRACT.features, Output("p", minimum=-1, maximum=3))
    return ModelVersion.load(tiny.saved(contract_json=contract.to_json()))


def test_scores_are_places_in_the_contract_s_range_and_those_that_are_no_number_count_apart(
    version: ModelVersion,
) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for predictions in ([[-1], [0], [np.nan]], [[1], [3], [np.inf], [-np.inf]], np.empty((0, 1))):
        metrics.scored(version, np.array(predictions, np.float32))
    metrics.flush()
    buckets = series(registry, "causeway_scores_bucket")
    at_most = {bound: sum(place <= bound for place in (0, 0.25, 0.5, 1)) for bound in SCORE_BUCKETS}
    assert {float(bound): n for (bound, tag), n in buckets.items() if bound != "+Inf"} == at_most
    assert series(registry, "causeway_scores_count") == {(version.tag,): 4}
    assert series(registry, "causeway_scores_sum") == {(version.tag,): 1.75}
    assert series(registry, "causeway_scores_not_finite_total") == {(version.tag,): 3}


def test_scores_of_a_version_that_predicts_one_number_alone_are_0(version: ModelVersion) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    output = Output("p", minimum=2, maximum=2)
    metrics.scored(replace(version, contract=Contract(tiny.CONTRACT.features, output)), np.full((3, 1), 2, np.float32))
    metrics.flush()
    assert series(registry, "causeway_scores_sum") == {(version.tag,): 0}


@pytest.mark.usefixtures("impatient")
def test_scores_of_new_versions_may_come_from_any_thread_while_others_are_counted(version: ModelVersion) -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    predictions = np.zeros((1, 1), np.float32)
    together = threading.Barrier(4)

    def score(first: int) -> None:
        for number in range(first, first + 300):
            metrics.scored(replace(version, tag=f"tiny:v{number}"), predictions)

    def score_others() -> None:
        together.wait(PATIENCE_S)
        score(300)

    score(0)
    threads = [threading.Thread(target=score_others) for _ in range(3)]
    for thread in threads:
        thread.start()
    together.wait(PATIENCE_S)
    while any(thread.is_alive() for thread in threads):
        metrics.flush()
    metrics.flush()
    expected = {(f"tiny:v{number}",): 1 if number < 300 else 3 for number in range(600)}
    assert series(registry, "causeway_scores_count") == expected


def test_rows_for_the_shadow_are_counted_and_how_far_it_is_from_what_was_returned(version: ModelVersion) -> None:
    registry, shadow = CollectorRegistry(), version
    metrics = Metrics(registry)
    for result, n_rows in (("scored", 3), ("dropped", 2), ("scored", 1), ("failed", 5)):
        metrics.shadowed(shadow, result, n_rows)
    metrics.differed(shadow, np.array([[0.0], [0.25], [np.nan], [np.inf]], np.float32))
    expected = {(shadow.tag, "scored"): 4, (shadow.tag, "dropped"): 2, (shadow.tag, "failed"): 5}
    assert series(registry, "causeway_shadow_rows_total") == expected
    assert series(registry, "causeway_shadow_differences_count") == {(shadow.tag,): 2}
    assert series(registry, "causeway_shadow_differences_sum") == {(shadow.tag,): 0.25}


def test_a_version_without_a_role_any_more_gets_nothing_in_it() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    assert series(registry, "causeway_deployed") == {}
    metrics.deployed(1, {("champion", "fraud:a"): 95, ("canary", "fraud:b"): 5}, is_followed=True)
    assert series(registry, "causeway_deployed") == {("fraud:a", "champion"): 95, ("fraud:b", "canary"): 5}
    metrics.deployed(2, {("champion", "fraud:b"): 100}, is_followed=False)
    assert series(registry, "causeway_deployed") == {
        ("fraud:a", "champion"): 0,
        ("fraud:b", "canary"): 0,
        ("fraud:b", "champion"): 100,
    }
    assert series(registry, "causeway_state_revision") == {(): 2}
    assert series(registry, "causeway_state_followed") == {(): 0}
    metrics.deployed(3, {("canary", "fraud:b"): 1, ("champion", "fraud:a"): 99}, is_followed=True)
    assert series(registry, "causeway_deployed")["fraud:b", "canary"] == 1


@pytest.fixture(scope="module")
def watched(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers, and nobody else who calls them."""
    with serving(home, tmp_path_factory.mktemp("watched") / "log", CAUSEWAY_WORKERS="2") as running:
        scraped(running)  # which is counted from here on
        yield running


def counted(server: Server, before: Mapping[str, float], expected: Mapping[str, float]) -> None:
    """Waits until the series have grown by what is expected; counting comes after answering."""

    def grown() -> bool:
        after = scraped(server)
        return all(after.get(name, 0) - before.get(name, 0) == growth for name, growth in expected.items())

    wait_until(grown, f"growth by {expected}")


REQUESTS = 'causeway_requests_total{endpoint="%s",status="%d"}'


def test_a_served_process_tells_the_truth_merged_over_its_workers(watched: Server) -> None:
    before = scraped(watched)
    statuses = [status(f"{watched.url}/predict", body) for body in (b"{}", b"[]", b"nonsense") * 10]
    assert set(statuses) == {400}
    assert status(f"{watched.url}/predict") == 405
    counted(
        watched,
        before,
        {
            REQUESTS % ("/predict", 400): 30,
            REQUESTS % ("/predict", 405): 1,
            'causeway_request_duration_seconds_count{endpoint="/predict"}': 31,
        },
    )


def test_unknown_urls_add_no_series(watched: Server) -> None:
    assert status(f"{watched.url}/unknown") == 404
    counted(watched, {}, {REQUESTS % ("other", 404): 1})
    wait_until(lambda: "causeway_prediction_log_backlog_bytes" in scraped(watched), "a keeper that works")
    before = scraped(watched)
    connection = http.client.HTTPConnection(urllib.parse.urlsplit(watched.url).netloc)
    for number in range(10_000):
        connection.request("GET", f"/unknown/{number}?{number}")
        with connection.getresponse() as response:
            assert (response.status, response.read()[:9]) == (404, b'{"error":')
    connection.close()
    counted(watched, before, {REQUESTS % ("other", 404): 10_000})
    assert set(scraped(watched)) == set(before)


def test_bentoml_s_own_metrics_are_there_too(watched: Server) -> None:
    status(f"{watched.url}/livez")
    assert any(name.startswith("bentoml_service_") for name in scraped(watched))
