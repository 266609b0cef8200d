"""Generator processes send one schedule between them, and never leave anybody waiting."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from load_tests.machine import free_port
from load_tests.open_loop.arrivals import constant
from load_tests.open_loop.fleet import Fleet, GeneratorDied, Progress
from load_tests.open_loop.offered import Outcome
from load_tests.traffic import Kind, Request, Traffic
from tests.conftest import ROOT, wait_until
from tests.load_tests.open_loop.served import Reply, Served, serving, stalling

RIGHT, WRONG = b'{"predictions": [[0.5]]}', b'{"predictions": [[1.5]]}'
CONNECTIONS = 200
"""More than any schedule here has requests: each finds one, however long the server takes."""

TRAFFIC = Traffic(
    (Kind("one", 1, 1.0),),
    tuple(Request("one", 1, b"%d" % place, {"X-Routing-Key": str(place)}) for place in range(7)),
)


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    """Answers request 0 wrongly, refuses request 1, fails request 2 and answers all others right."""
    replies = {b"0": Reply(200, WRONG), b"1": Reply(503), b"2": Reply(500)}
    with serving(lambda _, body: replies.get(body, Reply(200, RIGHT))) as served:
        yield served


@pytest.fixture(scope="module")
def fleet(server: Served) -> Iterator[Fleet]:
    """Two generator processes."""
    with Fleet(f"http://localhost:{server.port}", TRAFFIC, processes=2, connections=CONNECTIONS) as started:
        yield started


def is_running(pid: int) -> bool:
    """Whether a process has not ended; one that nobody has waited for has."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(") ")[2][0] != "Z"


def test_a_schedule_is_sent_once_by_all_processes_together(fleet: Fleet, server: Served) -> None:
    due_s, place, before = constant(100, 0.5), np.arange(50) % 7, server.requests
    offered = fleet.offer(due_s, place)
    assert server.requests - before == 50
    assert np.array_equal(offered.due_s, due_s)
    assert np.array_equal(offered.place, place)
    assert len(offered.cpu_s) == len(fleet.pids) == 2
    assert all(cpu_s > 0 for cpu_s in offered.cpu_s)
    assert 2 <= offered.connections <= 50


def test_all_processes_together_open_no_more_connections_than_they_may(server: Served) -> None:
    with Fleet(server.url, TRAFFIC, processes=2, connections=8) as few:
        assert 2 <= few.offer(constant(100, 0.5), np.arange(50) % 7).connections <= 8


def test_what_became_of_each_request_is_at_its_place(fleet: Fleet) -> None:
    offered = fleet.offer(constant(100, 0.21), np.arange(21) % 7)
    outcomes = [Outcome.WRONG, Outcome.REFUSED, Outcome.FAILED, *[Outcome.RIGHT] * 4]
    assert offered.outcome.tolist() == outcomes * 3
    assert offered.faults == {"a prediction that is not from 0 to 1": 3, "status 500": 3}
    assert (offered.sent_s >= offered.due_s).all()
    assert (offered.latency_s > offered.late_s).all()


def test_progress_ends_with_what_became_of_all(fleet: Fleet) -> None:
    told: list[Progress] = []
    offered = fleet.offer(constant(140, 1), np.arange(140) % 7, on_progress=told.append)
    last = told[-1]
    assert (last.due, last.sent, last.in_flight, last.unsent) == (140, 140, 0, 0)
    assert (last.right, last.refused, last.failed, last.wrong) == (80, 20, 20, 20)
    assert [each.due for each in told] == sorted(each.due for each in told)
    assert len({each.right for each in told}) > 2
    assert last.p50_ms is not None
    assert last.p99_ms is not None
    assert last.p50_ms <= last.p99_ms <= np.nanmax(offered.latency_s) * 1000


def test_fewer_requests_than_processes_and_none_at_all_are_schedules(fleet: Fleet) -> None:
    assert fleet.offer(np.zeros(1), np.array([6])).outcome.tolist() == [Outcome.RIGHT]
    assert len(fleet.offer(np.zeros(0), np.zeros(0, dtype=np.intp)).due_s) == 0


def test_each_process_stays_on_its_core(server: Served) -> None:
    cores = os.sched_getaffinity(0)
    with Fleet(server.url, TRAFFIC, cores=cores, connections=len(cores)) as fleet:
        fleet.offer(np.zeros(1), np.array([6]))
        assert [os.sched_getaffinity(pid) for pid in fleet.pids] == [{core} for core in sorted(cores)]


def test_processes_have_ended_with_their_fleet(server: Served) -> None:
    with Fleet(server.url, TRAFFIC, connections=1) as fleet:
        (pid,) = fleet.pids
    assert not is_running(pid)


def test_a_process_that_dies_is_named_and_nobody_waits_for_it() -> None:
    with serving(stalling(60)) as server, Fleet(server.url, TRAFFIC, processes=2, connections=4) as fleet:
        victim = fleet.pids[1]

        def kill(_: Progress) -> None:
            os.kill(victim, signal.SIGKILL)

        with pytest.raises(GeneratorDied, match=rf"generator process 2 \(pid {victim}\) ended .* exit code -9"):
            fleet.offer(constant(100, 0.5), np.zeros(50, dtype=np.intp), on_progress=kill)
        with pytest.raises(GeneratorDied):
            fleet.offer(np.zeros(2), np.zeros(2, dtype=np.intp))


def test_nothing_is_started_where_nothing_listens() -> None:
    with pytest.raises(ConnectionRefusedError), Fleet(f"http://127.0.0.1:{free_port()}", TRAFFIC, connections=1):
        pass


SENDS_FOR_AN_HOUR = """
import numpy as np
from load_tests.open_loop.fleet import Fleet
from load_tests.traffic import Kind, Request, Traffic

if __name__ == "__main__":
    traffic = Traffic((Kind("one", 1, 1.0),), (Request("one", 1, b"3", {}),))
    with Fleet("URL", traffic, connections=2) as fleet:
        due_s = np.arange(36_000) / 10
        fleet.offer(due_s, np.zeros(36_000, dtype=np.intp), on_progress=lambda _: print(*fleet.pids, flush=True))
"""


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGKILL])
def test_generators_end_in_the_middle_of_their_schedule_with_the_process_that_started_them(
    server: Served, tmp_path: Path, ending: signal.Signals
) -> None:
    script = tmp_path / "sends.py"
    script.write_text(SENDS_FOR_AN_HOUR.replace("URL", server.url))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True
    ) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.send_signal(ending)
    wait_until(lambda: not is_running(pid), "the generator's end")
