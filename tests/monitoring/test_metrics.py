"""What is counted, and that nobody can make the number of series grow."""

import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest

from causeway.monitoring.metrics import Metrics
from tests.conftest import Server, serving


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
    assert registry.get_sample_value("causeway_requests_total", {"endpoint": "/predict", "status": "200"}) == 2
    assert registry.get_sample_value("causeway_requests_total", {"endpoint": "/predict", "status": "400"}) == 1
    assert registry.get_sample_value("causeway_request_duration_seconds_count", {"endpoint": "/predict"}) == 3
    assert (
        registry.get_sample_value("causeway_request_duration_seconds_bucket", {"endpoint": "/predict", "le": "0.0025"})
        == 1
    )
    assert b"# HELP causeway_requests_total Requests that were answered" in generate_latest(registry)


def test_a_served_process_tells_the_truth_merged_over_its_workers(home: Path, tmp_path: Path) -> None:
    with serving(home, tmp_path / "log", CAUSEWAY_WORKERS="2") as server:
        series = 'causeway_requests_total{endpoint="/predict",status="%d"}'
        before = scraped(server)
        statuses = [status(f"{server.url}/predict", body) for body in (b"{}", b"[]", b"nonsense") * 10]
        assert set(statuses) == {400}
        assert status(f"{server.url}/predict") == 405
        after = scraped(server)
        assert after[series % 400] - before.get(series % 400, 0) == 30
        assert after[series % 405] - before.get(series % 405, 0) == 1
        assert after['causeway_request_duration_seconds_count{endpoint="/predict"}'] == 31


def test_unknown_urls_add_no_series(server: Server) -> None:
    assert status(f"{server.url}/unknown") == 404
    scraped(server)  # which is counted from here on
    before = scraped(server)
    for number in range(500):
        assert status(f"{server.url}/unknown/{number}?{number}") == 404
    after = scraped(server)
    assert set(after) == set(before)
    other = 'causeway_requests_total{endpoint="other",status="404"}'
    assert after[other] - before[other] == 500


def test_bentoml_s_own_metrics_are_there_too(server: Server) -> None:
    status(f"{server.url}/livez")
    assert any(name.startswith("bentoml_service_") for name in scraped(server))
