"""The front door: what is served equals what was trained, through every client."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import bentoml
import numpy as np
import pytest
from numpy.typing import NDArray

import models
from causeway import store
from causeway.contract import Array
from causeway.training.dataset import split
from causeway.version import ModelVersion
from load_tests.machine import free_port
from tests import tiny
from tests.conftest import HOME, PATIENCE_S, ROOT, Server, answers, environment, serving, wait_until


@cache
def original() -> tuple[Array, NDArray[np.float64]]:
    """Test rows, and what scikit-learn predicts for them: the reference model, trained again in this process."""
    family = models.family("gradient_boosting")
    parts = split(family.default_data(0))
    return parts.test.X, family.train(parts.train, family.Params(), 0).predict(parts.test.X)


def curl(url: str, body: object) -> dict[str, object]:
    """The answer to a POST of `body`, or to a GET without one, by the curl program."""
    command = ["curl", "-sS", url]
    if body is not None:
        command += ["-H", "Content-Type: application/json", "-d", "@-"]
    result = subprocess.run(command, input=json.dumps(body), capture_output=True, text=True, check=True)
    answer: dict[str, object] = json.loads(result.stdout)
    return answer


def test_onnx_and_scikit_learn_agree_over_the_whole_test_set(home: Path) -> None:
    X, expected = original()
    predictions = ModelVersion.load(store.find("fraud:latest")).predict(X)
    np.testing.assert_allclose(predictions[:, 0], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("n", [1, 1000])
def test_served_answers_equal_both_through_json(server: Server, n: int) -> None:
    X, expected = original()
    answer = curl(f"{server.url}/predict", {"features": X[:n].astype(float).tolist()})
    served = np.array(answer["predictions"], dtype=np.float32)
    np.testing.assert_array_equal(served, ModelVersion.load(store.find("fraud:latest")).predict(X[:n]))
    np.testing.assert_allclose(served[:, 0], expected[:n], rtol=0, atol=1e-5)


def test_an_answer_has_the_fields_of_the_wire_contract(server: Server) -> None:
    X, _ = original()
    answer = curl(f"{server.url}/predict", {"features": X[:2].astype(float).tolist()})
    assert set(answer) == {"predictions", "model_version", "latency_ms", "request_id", "variant"}
    assert answer["model_version"] == store.find("fraud:latest").tag
    assert answer["variant"] == "champion"
    assert isinstance(answer["latency_ms"], float)


def test_bentoml_s_sync_client_gets_the_same_predictions(server: Server) -> None:
    X, _ = original()
    rows = X[:5].astype(float).tolist()
    expected = curl(f"{server.url}/predict", {"features": rows})
    names = models.family("gradient_boosting").CONTRACT.names
    with bentoml.SyncHTTPClient(server.url) as client:
        by_position = client.predict(features=rows)
        by_name = client.predict(rows=[dict(zip(names, row, strict=True)) for row in rows])
        with pytest.raises(bentoml.exceptions.InvalidArgument, match="features_wrong_width"):
            client.predict(features=[[1.0]])
    assert by_position["predictions"] == by_name["predictions"] == expected["predictions"]
    assert by_position["model_version"] == expected["model_version"]


def test_bentoml_s_async_client_gets_the_same_predictions(server: Server) -> None:
    X, _ = original()
    rows = X[:5].astype(float).tolist()

    async def call() -> dict[str, object]:
        async with bentoml.AsyncHTTPClient(server.url) as client:
            answer: dict[str, object] = await client.predict(features=rows)
            return answer

    expected = curl(f"{server.url}/predict", {"features": rows})
    assert asyncio.run(call())["predictions"] == expected["predictions"]


def test_bentoml_s_api_method_answers_the_same_in_process(server: Server) -> None:
    X, _ = original()
    rows = X[:3].astype(float).tolist()
    code = f"""
import asyncio, json, service
instance = service.Causeway()
print(json.dumps(asyncio.run(instance.predict(features={rows!r}))))
try:
    asyncio.run(instance.predict(features=[[1.0]]))
except service.codec.errors.WrongWidth as refusal:
    print(refusal.expected)
"""
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, cwd=ROOT, env=environment(HOME), capture_output=True, text=True, check=True)
    answer, expected_width = (json.loads(line) for line in result.stdout.splitlines())
    served = curl(f"{server.url}/predict", {"features": rows})
    assert set(answer) == set(served)
    np.testing.assert_array_equal(
        np.array(answer["predictions"], np.float32), np.array(served["predictions"], np.float32)
    )
    assert answer["model_version"] == served["model_version"]
    assert expected_width == 15


def test_a_bento_serves_the_version_that_it_was_built_with(home: Path, tmp_path: Path) -> None:
    def built(tag: str) -> str:
        command = ["bentoml", "build", "--output", "tag"]
        environ = environment(home, CAUSEWAY_MODEL=tag)
        result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=True)
        return result.stdout.strip().removeprefix("__tag__:")

    older = tiny.saved().tag
    bento = built("tiny:latest")
    tiny.saved()
    with serving(home, tmp_path / "log", bento=bento) as served:
        assert curl(f"{served.url}/health", None)["version"] == older


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CAUSEWAY_MODEL", "fraud", "CAUSEWAY_MODEL='fraud': must be a model tag, name:version or name:latest\n"),
        ("CAUSEWAY_WORKRES", "2", "CAUSEWAY_WORKRES is no setting; did you mean CAUSEWAY_WORKERS?\n"),
        ("CAUSEWAY_MODEL", "nosuch:latest", "The model store has no version nosuch:latest"),
    ],
)
def test_a_setting_that_cannot_be_served_stops_the_service_with_a_sentence(
    home: Path, variable: str, value: str, words: str
) -> None:
    result = served_in_vain(home, variable, value)
    assert result.returncode == 1
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("content", [None, "{", ""])
def test_a_version_that_bentoml_cannot_read_stops_the_service_with_a_sentence(home: Path, content: str | None) -> None:
    stored = tiny.saved()
    (stored.path / "model.yaml").unlink()
    if content is not None:
        (stored.path / "model.yaml").write_text(content)
    result = served_in_vain(home, "CAUSEWAY_MODEL", stored.tag)
    shutil.rmtree(stored.path)
    assert result.returncode == 1
    assert f"Version {stored.tag} is refused: BentoML cannot read it" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def served_in_vain(home: Path, variable: str, value: str) -> subprocess.CompletedProcess[str]:
    """`bentoml serve`, which ends by itself."""
    command = ["bentoml", "serve", "--host", "127.0.0.1", "--port", str(free_port())]
    environ = environment(home, **{variable: value})
    return subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )


def test_two_workers_share_the_port(home: Path, tmp_path: Path) -> None:
    X, _ = original()
    log = tmp_path / "log"

    def loaded() -> int:
        events = [
            json.loads(line) for line in log.read_text().splitlines() if line.startswith("{") and line.endswith("}")
        ]
        return [event["event"] for event in events].count("version_loaded")

    with serving(home, log, CAUSEWAY_WORKERS="2") as server:
        wait_until(lambda: loaded() == 2, "a second worker", server)
        row = {"features": X[:1].astype(float).tolist()}
        answers = [curl(f"{server.url}/predict", row)["predictions"] for _ in range(10)]
    assert all(answer == answers[0] for answer in answers)


def test_an_idle_connection_is_kept_for_as_long_as_bentoml_s_option_says(home: Path, tmp_path: Path) -> None:
    X, _ = original()
    body, headers = json.dumps({"features": X[:1].astype(float).tolist()}), {"Content-Type": "application/json"}
    with serving(home, tmp_path / "log", options=["--timeout-keep-alive", "7"]) as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE_S)
        asked = time.monotonic()
        connection.request("POST", "/predict", body, headers)
        with connection.getresponse() as answer:
            assert answer.status == 200
            answer.read()
        assert connection.sock.recv(1) == b""  # closed
        assert time.monotonic() - asked >= 7
        connection.close()


def test_a_request_in_flight_is_answered_when_the_service_is_asked_to_stop(home: Path, tmp_path: Path) -> None:
    X, _ = original()
    body = json.dumps({"features": X[:1].astype(float).tolist()}).encode()
    with serving(home, tmp_path / "log") as server:
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE_S)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("X-Timeout-Ms", "30000")
        connection.endheaders(body[:10])
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not answers(f"{server.url}/health"), "the end of new connections")
        connection.send(body[10:])
        assert json.load(connection.getresponse())["variant"] == "champion"
        connection.close()
        assert server.process.wait(PATIENCE_S) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()
