"""What `make train` makes is what `make serve` serves, and a port that cannot be used is told before anything else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from causeway import port
from load_tests.machine import free_port
from tests.conftest import PATIENCE_S, ROOT, Server, answers, environment, wait_until
from tests.test_train_and_save import BROKEN

COPIED = ("causeway", "models", "requirements", "Makefile", "README.md", "bentofile.yaml", "service.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with a model family of its own, small.py, and an environment that is set up already."""
    copy = tmp_path_factory.mktemp("make")
    for name in (*COPIED, "train_and_save.py"):
        source = ROOT / name
        shutil.copytree(source, copy / name) if source.is_dir() else shutil.copy2(source, copy / name)
    family = BROKEN.format(maximum="1.0", artifact="sklearn_to_onnx(trained.model, 1)")
    (copy / "models" / "small.py").write_text(family.replace('"broken"', '"own"'))
    (copy / "venv").mkdir()
    (copy / "venv" / ".serving").touch()
    return copy


def make(folder: Path, *arguments: str) -> list[str]:
    """The command line of `make` that uses this test's interpreter."""
    return ["make", "-C", str(folder), "VENV=venv", f"BIN={Path(sys.executable).parent}", *arguments]


def made(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = environment(folder / "home")
    return subprocess.run(make(folder, *arguments), env=environ, capture_output=True, text=True, check=False)


@contextmanager
def served(folder: Path, log: Path, *arguments: str) -> Iterator[str]:
    """The URL of what `make serve` serves, from when it answers; ended afterwards, with all that make started."""
    number = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            make(folder, "serve", f"PORT={number}", *arguments),
            env=environment(folder / "home"),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Server(f"http://127.0.0.1:{number}", process, log)
    try:
        wait_until(lambda: answers(f"{server.url}/health"), f"an answer with {arguments}", server)
        yield server.url
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE_S)


def test_serve_serves_the_family_that_it_trained_or_the_model_that_was_asked_for(folder: Path, tmp_path: Path) -> None:
    (folder / "home").mkdir()
    versions = []
    for arguments in (["FAMILY=small"], ["FAMILY=small"], ["CAUSEWAY_MODEL=own:latest", "FAMILY=nosuchfamily"]):
        with served(folder, tmp_path / "log", *arguments) as url, urllib.request.urlopen(f"{url}/health") as response:
            versions.append(json.load(response)["version"])
    assert versions[0].startswith("own:")
    assert set(versions) == {versions[0]}


def test_a_port_that_another_service_holds_is_told_and_nothing_is_started(folder: Path, server: Server) -> None:
    number = server.url.rsplit(":", 1)[1]
    result = made(folder, "serve", f"PORT={number}")
    assert result.returncode != 0
    assert f"Port {number} is taken by another program" in result.stderr
    assert "curl" not in result.stdout
    assert "Training" not in result.stderr


@pytest.mark.parametrize("typed", ["abc", "0", "99999", "-1", "3000 3001", "", "1" * 5000])
def test_a_port_that_is_none_is_refused_in_a_sentence(folder: Path, typed: str) -> None:
    result = made(folder, "serve", f"PORT={typed}")
    assert result.returncode != 0
    assert f"PORT={typed}: must be a whole number from 1 to 65535" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_free_port_is_no_problem_and_one_that_was_just_closed_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        number = str(listening.getsockname()[1])
        assert "is taken" in (port.problem(number) or "")
    assert port.problem(number) is None
