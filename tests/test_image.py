"""The image that `make image` builds: small, healthy, and content with next to no rights.

Built and run for real with podman, loopback only. Where no registry can be reached, a script in shared/ beside this
checkout makes a stand-in for the base image; where there is neither, these tests are skipped with the reason.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from causeway import store
from causeway.version import ModelVersion
from load_tests.machine import free_port
from tests.conftest import PATIENCE_S, ROOT, answers, environment, wait_until

BASE_IMAGE = "docker.io/library/python:3.11-slim"
BASE_IMAGE_SCRIPT = ROOT.parent / "shared" / "tools" / "containers" / "base_image.sh"
IMAGE = "localhost/causeway-test:latest"
MAX_IMAGE_BYTES = 450_000_000
STOP_GRACE_S = 20
RESTRICTIONS = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")


@dataclass(frozen=True)
class Podman:
    """podman, with the settings for building and for running, which differ where the machine needs help to build."""

    build: dict[str, str]
    run: dict[str, str]

    def __call__(self, *arguments: str, check: bool = True) -> str:
        """What `podman ...` prints."""
        command = ["podman", *arguments]
        result = subprocess.run(
            command, env={**os.environ, **self.run}, capture_output=True, text=True, check=False, timeout=600
        )
        assert not check or result.returncode == 0, f"{command}: {result.stderr}"
        return result.stdout.strip()


@pytest.fixture(scope="module")
def podman() -> Podman:
    """podman with the base image at hand: made by the script, there already, or pulled."""
    if BASE_IMAGE_SCRIPT.exists() and os.geteuid() == 0:
        made = subprocess.run(["bash", str(BASE_IMAGE_SCRIPT)], capture_output=True, text=True, check=False)
        if made.returncode != 0:
            pytest.skip(f"the base image cannot be made: {made.stderr[-300:]}")
        said = dict(re.findall(r"(\w+)=(\S+)", made.stdout))
        return Podman({"CONTAINERS_CONF": said["CONTAINERS_CONF"]}, {"CONTAINERS_CONF": said["CONTAINERS_RUN_CONF"]})
    if shutil.which("podman") is None:
        pytest.skip("there is no podman")
    found = Podman({}, {})
    pulled = subprocess.run(["podman", "pull", "--quiet", BASE_IMAGE], capture_output=True, text=True, check=False)
    if pulled.returncode != 0 and not found("images", "--quiet", BASE_IMAGE, check=False):
        pytest.skip(f"{BASE_IMAGE} cannot be pulled: {pulled.stderr[-300:]}")
    return found


def cannot_run(podman: Podman) -> str | None:
    """Why this machine runs no containers at all, whatever is in them; None where it does."""
    command = ["podman", "run", "--rm", "--network", "host", *RESTRICTIONS, BASE_IMAGE, "true"]
    result = subprocess.run(command, env={**os.environ, **podman.run}, capture_output=True, text=True, check=False)
    return None if result.returncode == 0 else f"podman cannot run containers here: {result.stderr[-300:]}"


@pytest.fixture(scope="module")
def runner(podman: Podman) -> Podman:
    """podman, where it can run containers: a machine that builds images need not be able to."""
    reason = cannot_run(podman)
    if reason is not None:
        pytest.skip(reason)
    return podman


@pytest.fixture(scope="module")
def image(podman: Podman, home: Path) -> Iterator[str]:
    """The image of this checkout with the reference model, built as the README says."""
    arguments = ["BACKEND=podman", f"IMAGE={IMAGE}", "CONTAINERIZE_OPTS=--opt network=host"]
    command = ["make", "image", *arguments]
    result = subprocess.run(
        command, cwd=ROOT, env=environment(home, **podman.build), capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    yield IMAGE
    podman("untag", IMAGE, check=False)  # not rmi, which would take the cached layers with it


@dataclass(frozen=True)
class Container:
    """A container of the image, with all the restrictions."""

    podman: Podman
    name: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sh(self, command: str) -> str:
        """What a shell command in the container prints."""
        return self.podman("exec", self.name, "sh", "-c", command, check=False)

    def python(self, code: str) -> str:
        """What Python code in the container prints."""
        return self.podman("exec", self.name, "python", "-c", code)

    def inspect(self, template: str) -> str:
        return self.podman("inspect", "--format", template, self.name)

    def wait_until_healthy(self) -> None:
        """Returns when the image's own HEALTHCHECK passes, which needs no network."""

        def is_healthy() -> bool:
            assert self.inspect("{{.State.Running}}") == "true", self.podman("logs", self.name)
            command = ["podman", "healthcheck", "run", self.name]
            result = subprocess.run(command, env={**os.environ, **self.podman.run}, capture_output=True, check=False)
            return result.returncode == 0

        wait_until(is_healthy, "a passing HEALTHCHECK")

    def predict(self, rows: list[list[float]]) -> dict[str, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        connection.request("POST", "/predict", json.dumps({"features": rows}), {"Content-Type": "application/json"})
        answer: dict[str, object] = json.load(connection.getresponse())
        connection.close()
        return answer


@contextmanager
def running(podman: Podman, image: str, *options: str, network: str = "host") -> Iterator[Container]:
    """A started container, removed afterwards."""
    container = Container(podman, f"causeway-test-{uuid.uuid4().hex[:8]}", free_port())
    where = ("--network", network, "-e", f"PORT={container.port}", "-e", "BENTOML_HOST=127.0.0.1", *options)
    podman("run", "-d", "--name", container.name, *where, *RESTRICTIONS, image)
    try:
        yield container
    finally:
        podman("rm", "-f", "--time", "0", container.name, check=False)


@pytest.fixture(scope="module")
def container(runner: Podman, image: str) -> Iterator[Container]:
    """One healthy container for the tests that leave it as they found it."""
    with running(runner, image) as started:
        started.wait_until_healthy()
        yield started


def test_a_machine_that_cannot_run_containers_is_told_from_an_image_that_does_not_run(
    podman: Podman, tmp_path: Path
) -> None:
    (tmp_path / "containers.conf").write_text('[engine]\nruntime = "nosuchruntime"\n')
    elsewhere = Podman(podman.build, {"CONTAINERS_CONF": str(tmp_path / "containers.conf")})
    assert "podman cannot run containers here: " in str(cannot_run(elsewhere))
    assert "nosuchruntime" in str(cannot_run(elsewhere))


def test_the_image_is_at_most_450_mb(podman: Podman, image: str) -> None:
    assert int(podman("image", "inspect", "--format", "{{.Size}}", image)) <= MAX_IMAGE_BYTES


def test_the_image_names_a_numeric_user_that_is_not_root(podman: Podman, image: str) -> None:
    user = podman("image", "inspect", "--format", "{{.Config.User}}", image).split(":")[0]
    assert user.isdigit()
    assert user != "0"


def test_the_image_has_a_health_check(podman: Podman, image: str) -> None:
    facts = json.loads(podman("image", "inspect", image))[0]
    check = facts.get("Healthcheck") or facts["Config"].get("Healthcheck")
    assert check["Test"][0] == "CMD"


def test_what_is_installed_is_what_is_locked(container: Container) -> None:
    lock = (ROOT / "requirements" / "serving.txt").read_text()
    locked = {(name.lower().replace("_", "-"), pin) for name, pin in re.findall(r"(?m)^([\w.-]+)==([\w.]+)", lock)}
    installed = json.loads(
        container.python(
            "import importlib.metadata as m, json;"
            "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in m.distributions()}))"
        )
    )
    assert len(installed) > 20
    assert set(installed.items()) <= locked


def test_nothing_but_what_serves_is_in_the_bento(container: Container) -> None:
    assert set(container.sh("ls -A src").split()) - {"__pycache__"} == {
        "bentofile.yaml",
        "causeway",
        "requirements",
        "service.py",
    }
    assert not {"training", "client.py"} & set(container.sh("ls -A src/causeway").split())
    for tool in ("gcc", "git", "uv"):
        assert container.sh(f"command -v {tool}") == ""


def test_it_runs_without_root_capabilities_or_a_writable_root(container: Container) -> None:
    status = dict(line.split(":\t", 1) for line in container.sh("cat /proc/1/status").splitlines() if ":\t" in line)
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    assert container.sh("touch ./x 2>/dev/null || echo refused") == "refused"
    assert container.sh("find /app . -xdev -user $(id -u) -o -perm -o+w -not -type l | head") == ""


def test_it_answers_as_the_model_in_the_store_does(container: Container) -> None:
    version = ModelVersion.load(store.find("fraud:latest"))
    answer = container.predict(version.example)
    assert answer["model_version"] == version.tag
    expected = version.predict(version.contract.from_features(version.example))
    assert answer["predictions"] == [[float(str(value))] for value in expected[:, 0]]


def test_a_version_on_a_volume_is_promoted_and_kept_over_a_restart(
    runner: Podman, image: str, home: Path, tmp_path: Path
) -> None:
    built = store.find("fraud:latest")
    later = f"fraud:{built.path.name[:-1]}z"
    name, _, version = later.partition(":")
    folder = tmp_path / "models" / name / version
    shutil.copytree(built.path, folder)
    described = (folder / "model.yaml").read_text()
    (folder / "model.yaml").write_text(described.replace(f"version: {built.path.name}", f"version: {version}"))
    for path in (tmp_path, *tmp_path.rglob("*")):
        path.chmod(0o777)
    volume = ("--volume", f"{tmp_path}:/data", "-e", "BENTOML_HOME=/data")
    with running(runner, image, *volume) as started:
        started.wait_until_healthy()
        assert started.predict(ModelVersion.load(built).example)["model_version"] == built.tag
        assert "1 worker serves revision 1" in started.sh(f"causeway promote {later}")
        assert started.predict(ModelVersion.load(built).example)["model_version"] == later
        listed = json.loads(started.sh("causeway versions --json"))
        assert {one["tag"]: one["role"] for one in listed} == {built.tag: None, later: "champion"}
    with running(runner, image, *volume) as again:
        again.wait_until_healthy()
        assert again.predict(ModelVersion.load(built).example)["model_version"] == later
        assert "1 worker serves revision 2" in again.sh("causeway rollback")
        assert again.predict(ModelVersion.load(built).example)["model_version"] == built.tag


def test_without_a_volume_the_state_lasts_as_long_as_the_container(container: Container) -> None:
    assert "No worker" not in container.sh("causeway status")
    assert "there was no champion before" in container.sh("causeway rollback 2>&1")


def test_it_starts_without_any_network(runner: Podman, image: str) -> None:
    with running(runner, image, network="none") as isolated:
        isolated.wait_until_healthy()


def test_a_worker_that_dies_is_replaced(runner: Podman, image: str) -> None:
    kill = (
        "import os, signal\n"
        "for pid in filter(str.isdigit, os.listdir('/proc')):\n"
        "    if '_bentoml_impl.worker.service' in open(f'/proc/{pid}/cmdline').read().split('\\0'):\n"
        "        os.kill(int(pid), signal.SIGKILL); print(pid)"
    )
    with running(runner, image) as started:
        started.wait_until_healthy()
        assert started.python(kill)
        started.wait_until_healthy()
        assert started.predict(ModelVersion.load(store.find("fraud:latest")).example)["variant"] == "champion"


def test_sigterm_lets_the_request_in_flight_finish(runner: Podman, image: str) -> None:
    version = ModelVersion.load(store.find("fraud:latest"))
    body = json.dumps({"features": version.example}).encode()
    with running(runner, image) as started:
        started.wait_until_healthy()
        connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=PATIENCE_S)
        connection.putrequest("POST", "/predict")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.putheader("X-Timeout-Ms", "30000")
        connection.endheaders(body[:10])
        runner("kill", "--signal", "TERM", started.name)
        wait_until(lambda: not answers(f"{started.url}/health"), "the end of new connections")
        connection.send(body[10:])
        assert json.load(connection.getresponse())["model_version"] == version.tag
        connection.close()
        assert int(runner("wait", started.name)) in (0, 128 + signal.SIGTERM)


@pytest.mark.parametrize("is_healthy", [True, False], ids=["when it serves", "while it starts"])
def test_sigterm_ends_it_without_a_kill(runner: Podman, image: str, is_healthy: bool) -> None:
    with running(runner, image) as started:
        if is_healthy:
            started.wait_until_healthy()
        runner("stop", "--time", str(STOP_GRACE_S), started.name)
        assert int(started.inspect("{{.State.ExitCode}}")) in (0, 128 + signal.SIGTERM)
