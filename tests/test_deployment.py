"""The deployment answers with a version that holds, and says why where there is none."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import structlog
from prometheus_client import CollectorRegistry

from causeway.deployment import Deployment, pinned
from causeway.errors import NotReady
from causeway.monitoring.metrics import Metrics
from causeway.settings import Settings
from tests import tiny
from tests.conftest import serving

METRICS = Metrics(CollectorRegistry())


def test_before_it_starts_nothing_answers() -> None:
    with pytest.raises(NotReady, match="it is being loaded"):
        _ = Deployment(Settings(), METRICS).champion


def test_the_version_that_the_settings_name_becomes_champion() -> None:
    stored = tiny.saved()
    tiny.saved()
    deployment = Deployment(Settings(model=stored.tag), METRICS)
    deployment.start()
    assert deployment.is_ready
    assert deployment.champion.role == "champion"
    assert deployment.champion.version.tag == stored.tag


@pytest.mark.parametrize("tag", ["tiny:nosuchversion", "nosuchmodel:latest"])
def test_a_model_that_is_not_there_is_the_reason(tag: str) -> None:
    deployment = Deployment(Settings(model=tag), METRICS)
    with structlog.testing.capture_logs() as events:
        deployment.start()
    assert not deployment.is_ready
    with pytest.raises(NotReady, match=tag):
        _ = deployment.champion
    assert [(event["event"], event["model_version"]) for event in events] == [("version_refused", tag)]


@pytest.mark.parametrize(
    ("tag", "built_with", "expected"),
    [
        ("fraud:latest", [], "fraud:latest"),
        ("fraud:latest", ["fraud:a1"], "fraud:a1"),
        ("fraud:b2", ["fraud:a1"], "fraud:b2"),
        ("other:latest", ["fraud:a1", "other:c3"], "other:c3"),
        ("fraud:latest", ["other:c3"], "other:c3"),
    ],
)
def test_latest_in_a_bento_is_the_version_that_it_was_built_with(
    tag: str, built_with: list[str], expected: str
) -> None:
    assert pinned(tag, built_with) == expected


def test_a_damaged_version_is_served_by_nobody_and_everybody_is_told_why(home: Path, tmp_path: Path) -> None:
    stored = tiny.saved()
    with (stored.path / "model.onnx").open("ab") as handle:
        handle.write(b"\0")
    with serving(home, tmp_path / "log", CAUSEWAY_MODEL=stored.tag) as server:
        for path, data in [("/health", None), ("/predict", b'{"features": [[0, 0]]}')]:
            request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
            with pytest.raises(urllib.error.HTTPError) as answer:
                urllib.request.urlopen(request, timeout=10)
            with answer.value as refused:
                body = json.load(refused)
                assert (refused.status, body["code"]) == (503, "not_ready")
                assert int(refused.headers["Retry-After"]) >= 1
                assert "model.onnx is not what was saved" in body["reason"]
        with pytest.raises(urllib.error.HTTPError) as ready:
            urllib.request.urlopen(f"{server.url}/readyz", timeout=10)
        with ready.value as refused:
            assert refused.status == 503
        with urllib.request.urlopen(f"{server.url}/livez", timeout=10) as alive:
            assert alive.status == 200
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert [event["model_version"] for event in events if event["event"] == "version_refused"] == [stored.tag]
