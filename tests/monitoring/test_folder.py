"""Each server counts in a folder of its own, which goes when the server goes."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from causeway.monitoring import folder
from tests.conftest import ROOT, Server, serving, wait_until
from tests.monitoring.test_metrics import REQUESTS, scraped, status

REFUSED = REQUESTS % ("/predict", 400)


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files, in which the servers of a test leave nothing behind."""
    made = tmp_path / "tmp"
    made.mkdir()
    yield made
    assert folders(made) == []


def folders(temporary: Path) -> list[Path]:
    return [made for made in temporary.iterdir() if "causeway-metrics-" in made.name]


def count(server: Server) -> float:
    return scraped(server).get(REFUSED, 0)


def refuse(server: Server) -> None:
    """Sends a request that is refused, and waits until it is counted."""
    before = count(server)
    assert status(f"{server.url}/predict", b"{}") == 400
    wait_until(lambda: count(server) == before + 1, "one refusal more", server)


def test_a_second_server_leaves_the_first_one_s_metrics_alone(home: Path, tmp_path: Path, temporary: Path) -> None:
    with serving(home, tmp_path / "first", TMPDIR=str(temporary), CAUSEWAY_WORKERS="2") as first:
        refuse(first)
        with serving(home, tmp_path / "second", TMPDIR=str(temporary)) as second:
            assert (count(first), count(second)) == (1, 0)
            refuse(first)
            refuse(second)
            assert (count(first), count(second)) == (2, 1)
            assert len(folders(temporary)) == 2
        refuse(first)


def test_what_a_killed_server_left_behind_goes_with_the_next_start(home: Path, tmp_path: Path, temporary: Path) -> None:
    with serving(home, tmp_path / "killed", TMPDIR=str(temporary)) as killed:
        started = psutil.Process(killed.process.pid)
        for process in (started, *started.children(recursive=True)):
            process.kill()
        killed.process.wait()
        (left,) = folders(temporary)
    with serving(home, tmp_path / "next", TMPDIR=str(temporary)) as server:
        refuse(server)
        assert left not in folders(temporary)


WORKER = """
from causeway.monitoring import folder
folder.join()
from prometheus_client import CollectorRegistry
from causeway.monitoring.metrics import Metrics
metrics = Metrics(CollectorRegistry())
metrics.poisoned()
metrics.deployed(7, {("champion", "fraud:a"): 100}, is_followed=True)
print("told", flush=True)
input()
"""


def told(by: Path) -> list[str]:
    """The lines of an exposition, of all processes that count in this folder."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(by))
    return generate_latest(registry).decode().splitlines()


def test_gauges_of_a_killed_worker_go_and_what_it_counted_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in (folder.VARIABLE, "PROMETHEUS_MULTIPROC_DIR"):  # BentoML sets the latter, to a folder of its own
        monkeypatch.setenv(variable, str(tmp_path))
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"told\n"
    living, killed = (f'causeway_state_revision{{pid="{worker.pid}"}} 7.0' for worker in workers)
    deployed = 'causeway_deployed{model_version="fraud:a",variant="champion"} 100.0'
    folder.forget_the_dead()
    assert {living, killed, deployed, "causeway_poisoned_requests_total 2.0"} <= set(told(tmp_path))

    workers[1].kill()
    workers[1].communicate()
    with ThreadPoolExecutor(4) as at_once:
        list(at_once.map(lambda _: folder.forget_the_dead(), range(20)))
    assert {living, deployed, "causeway_poisoned_requests_total 2.0"} <= set(told(tmp_path))
    assert killed not in told(tmp_path)

    workers[0].communicate(b"\n")
    folder.forget_the_dead()
    assert [line for line in told(tmp_path) if line.startswith(("causeway_state", "causeway_deployed"))] == []
    assert "causeway_poisoned_requests_total 2.0" in told(tmp_path)


def test_without_a_folder_there_is_nobody_to_forget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(folder.VARIABLE, raising=False)
    folder.forget_the_dead()
    assert folder.VARIABLE not in os.environ
