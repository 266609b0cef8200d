"""Servers that are started, and those that run already."""

import os
import sys
from pathlib import Path

import pytest

from load_tests import machine, served
from load_tests.machine import Cores
from load_tests.served import ServerGone, Target
from tests.conftest import Server
from tests.load_tests.known import known_server

CORES = os.sched_getaffinity(0)


def test_a_server_that_cannot_start_says_why_with_the_last_lines_of_its_log(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    nobody = served.started(Target(model="nobody:latest"), CORES, tmp_path, log)
    with pytest.raises(ServerGone, match="the server ended with 1: ") as gone, nobody:
        pytest.fail("it started")
    assert "nobody:latest" in str(gone.value)
    assert "nobody:latest" in log.read_text()


def test_a_running_server_is_seen_with_all_its_processes(server: Server) -> None:
    seen = served.running(server.url)
    assert server.process.pid in seen.roots
    assert set(machine.tree(server.process.pid)) == set(seen.pids)
    assert len(seen.pids) > 2  # a worker, and the keeper of the prediction log
    assert os.getpid() not in seen.pids


def test_a_server_that_is_no_more_is_missed() -> None:
    with known_server(0.001) as known:
        seen = served.running(known.url)
        seen.check()
        known.process.kill()
        known.process.wait()
        with pytest.raises(ServerGone, match="any more"):
            seen.check()
        assert seen.pids == []
    with pytest.raises(ServerGone, match="nothing listens at"):
        served.running(known.url)


def test_a_started_server_that_ends_is_told_with_its_exit_code(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "print('out of ideas'); raise SystemExit(3)"]
    process = served.Process(command, CORES, {}, tmp_path / "log")
    assert process.fault_until(lambda: False) == "ended with 3: out of ideas"
    with pytest.raises(ServerGone, match="the server ended with 3: out of ideas"):
        served.Server("http://127.0.0.1:1", (process.pid,), process).check()
    process.ask_to_end()
    process.end()


def test_a_servers_settings_are_its_defaults_whatever_the_shell_has_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CAUSEWAY_THREADS", "7")
    monkeypatch.setenv("CAUSEWAY_MAX_ROWS", "7")
    command = [
        sys.executable,
        "-c",
        "import os; print({k: v for k, v in os.environ.items() if k.startswith('CAUSEWAY_')})",
    ]
    process = served.Process(command, CORES, {"CAUSEWAY_MAX_ROWS": "8"}, tmp_path / "log")
    process.fault_until(lambda: False)
    assert (tmp_path / "log").read_text().strip() == "{'CAUSEWAY_MAX_ROWS': '8'}"


@pytest.mark.parametrize(
    ("available", "server", "generator", "divided"),
    [
        ({0, 1}, 1, 1, ({0}, {1})),
        ({0, 1}, 1, 2, ({0}, {1})),
        ({0, 1}, 2, 1, ({0, 1}, {0, 1})),
        ({5}, 1, 1, ({5}, {5})),
        (set(range(8)), 4, 2, ({0, 1, 2, 3}, {4, 5})),
    ],
)
def test_cores_are_divided_where_both_sides_get_one(
    available: set[int],
    server: int,
    generator: int,
    divided: tuple[set[int], set[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: available)
    cores = Cores.divided(server, generator)
    assert (cores.server, cores.generator) == divided
    assert cores.are_apart == (divided[0] != divided[1])
