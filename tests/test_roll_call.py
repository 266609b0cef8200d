"""Who lives is called and who was killed is not, whatever a worker was doing."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from causeway import roll_call
from causeway.roll_call import Presence, Report
from causeway.state import State
from tests.conftest import PATIENCE_S, ROOT

STATE = State.of("fraud:a")

WORKER = """
import os, sys
from pathlib import Path
from causeway.roll_call import Presence, Report
from causeway.state import State

presence = Presence(Path(sys.argv[1]))
state = State.of("fraud:a")
while True:
    presence.report(Report(os.getpid(), state))
    print("reported", flush=True)
    if not sys.stdin.readline():
        break
    state = state.promote(f"fraud:v{state.revision % 2}")
presence.leave()
"""


class Worker:
    """A process that reports, and reports a state with the next revision whenever it is told to."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-c", WORKER, str(folder)]
        self.process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.pid = self.process.pid
        self.wait()

    def wait(self) -> None:
        """Returns once it has reported."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "reported\n"

    def go_on(self) -> None:
        """Has it report again."""
        assert self.process.stdin is not None
        print(file=self.process.stdin, flush=True)
        self.wait()

    def kill(self) -> None:
        """As kill -9 does."""
        self.process.kill()
        self.process.communicate()

    def leave(self) -> None:
        """Has it leave and end."""
        self.process.communicate(timeout=PATIENCE_S)


@contextmanager
def working(folder: Path, n: int) -> Iterator[list[Worker]]:
    workers = [Worker(folder) for _ in range(n)]
    try:
        yield workers
    finally:
        for worker in workers:
            worker.kill()


def pids(folder: Path) -> list[int]:
    return [report.pid for report in roll_call.call(folder)]


def test_the_living_are_called_in_order_and_the_killed_are_not_and_leave_no_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "workers"
    with working(folder, 3) as workers:
        first, second, third = sorted(workers, key=lambda worker: worker.pid)
        assert roll_call.call(folder) == [Report(worker.pid, STATE) for worker in (first, second, third)]
        second.kill()
        assert pids(folder) == [first.pid, third.pid]
        assert not list(folder.glob(f"*{second.pid}-*"))
        first.leave()
        assert [file.name.partition("-")[0] for file in folder.iterdir()] == [str(third.pid)] * 2
        assert pids(folder) == [third.pid]
    assert pids(folder) == []
    assert list(folder.iterdir()) == []


def test_the_last_report_counts(tmp_path: Path) -> None:
    presence = Presence(tmp_path)
    broken = Report(1, None, STATE, "it does not load")
    for report in (Report(1, STATE), broken):
        presence.report(report)
        assert roll_call.call(tmp_path) == [report]
    presence.leave()


def test_who_left_is_not_called_and_may_come_back(tmp_path: Path) -> None:
    presence = Presence(tmp_path)
    for _ in range(2):
        presence.report(Report(1, STATE))
        assert pids(tmp_path) == [1]
        presence.leave()
        assert pids(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_two_workers_of_one_process_are_two(tmp_path: Path) -> None:
    one, other = Presence(tmp_path), Presence(tmp_path)
    for presence in (one, other):
        presence.report(Report(1, STATE))
    one.leave()
    assert pids(tmp_path) == [1]
    other.leave()


@pytest.mark.parametrize("folder", ["not there", "a file", "a file/below", "/proc/below"])
def test_where_there_is_no_folder_and_can_be_none_nobody_is_called_and_nothing_raised(
    folder: str, tmp_path: Path
) -> None:
    (tmp_path / "a file").touch()
    assert roll_call.call(tmp_path / folder) == []
    if folder != "not there":
        presence = Presence(tmp_path / folder)
        presence.report(Report(1, STATE))
        assert roll_call.call(tmp_path / folder) == []
        presence.leave()


def test_a_report_that_is_replaced_while_it_is_read_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    with working(tmp_path, 1) as (worker,):
        revisions: list[int | None] = []
        is_over = threading.Event()

        def look() -> None:
            while not is_over.is_set():
                (report,) = roll_call.call(tmp_path) or [None]
                revisions.append(report.serving.revision if report and report.serving else None)

        looking = threading.Thread(target=look)
        looking.start()
        for _ in range(300):
            worker.go_on()
        is_over.set()
        looking.join()
        assert None not in revisions
        assert revisions == sorted(revisions)
        assert revisions[-1] > 0
        assert roll_call.call(tmp_path)[0].serving.revision == 300


def test_of_several_that_look_at_once_none_takes_another_for_the_dead_worker(tmp_path: Path) -> None:
    with working(tmp_path, 1) as (worker,):
        files = {file: file.read_bytes() for file in tmp_path.iterdir()}
        worker.kill()
    seen: list[int] = []
    together = threading.Barrier(3)

    def look() -> None:
        for _ in range(100):
            if together.wait(PATIENCE_S) == 0:
                for file, data in files.items():
                    file.write_bytes(data)
            together.wait(PATIENCE_S)
            seen.extend(pids(tmp_path))

    looking = [threading.Thread(target=look) for _ in range(3)]
    for thread in looking:
        thread.start()
    for thread in looking:
        thread.join()
    assert seen == []
