"""What is counted, and that nobody can make the number of series grow."""

import math
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from causeway.monitoring.metrics import LATENCY_BUCKETS_S, Metrics, Observations
from tests.conftest import Server, serving, wait_until


def scraped(server: Server) -> Mapping[str, float]:
    """Series to value, of /metrics."""
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as response:
        lines = response.read().decode().splitlines()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def status(url: str, body: bytes | None = None) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code


def test_each_answer_is_counted_by_endpoint_and_status() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for code, seconds in ((200, 0.001), (200, 0.003), (400, 0.2)):
        metrics.answered("/predict", code, seconds)
    assert registry.get_sample_value("causeway_requests_total", {"endpoint": "/predict", "status": "200"}) is None
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
    before = scraped(watched)
    for number in range(500):
        assert status(f"{watched.url}/unknown/{number}?{number}") == 404
    counted(watched, before, {REQUESTS % ("other", 404): 500})
    assert set(scraped(watched)) == set(before)


def test_bentoml_s_own_metrics_are_there_too(watched: Server) -> None:
    status(f"{watched.url}/livez")
    assert any(name.startswith("bentoml_service_") for name in scraped(watched))
