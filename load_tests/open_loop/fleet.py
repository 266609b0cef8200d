"""Generator processes that send one schedule together, each on a core of its own. Linux only."""

from __future__ import annotations

import mmap
import multiprocessing
import os
import resource
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import connection, reduction
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from load_tests import machine
from load_tests.open_loop import client
from load_tests.open_loop.client import Target
from load_tests.open_loop.generator import LEAD_S, Generator
from load_tests.open_loop.offered import Offered, Outcome, outcomes
from load_tests.open_loop.record import Record
from load_tests.traffic import Answers, Traffic

PATH = "/predict"
PROGRESS_EVERY_S = 0.2
RECENT = 5
"""Looks over which the percentiles of `Progress` go."""

_SPAWN = multiprocessing.get_context("spawn")


class GeneratorDied(RuntimeError):
    """A generator process ended before its schedule did."""

    def __init__(self, name: str, exit_code: int | None) -> None:
        self.name, self.exit_code = name, exit_code
        super().__init__(f"{name} ended in the middle of its schedule, with exit code {exit_code}")


@dataclass(frozen=True)
class Progress:
    """What became of a schedule so far."""

    at_s: float
    """Since its start."""
    due: int
    sent: int
    right: int
    refused: int
    failed: int
    wrong: int
    unsent: int
    in_flight: int
    """Requests, each an `Outcome`, but for those due, sent and in flight."""
    p50_ms: float | None
    p99_ms: float | None
    """Of right answers of the last second; None without one."""
    cpu_s: tuple[float, ...]
    """User and system seconds of each generator process since the start."""


class Fleet:
    """Generator processes for one target, from `with` on; they keep their connections between schedules.

    `connections` are the most that all processes together may have open. There is one process for each of `cores`,
    on which it stays, or one in all where there are none. A fleet is of no further use once `offer` has raised.
    """

    def __init__(
        self,
        url: str,
        traffic: Traffic,
        *,
        processes: int | None = None,
        cores: Iterable[int] | None = None,
        connections: int,
    ) -> None:
        """Raises `ValueError` where `url` is no http:// URL; a path in it comes before /predict."""
        self._target = Target.parse(url)
        self._traffic = traffic
        self._cores = sorted(cores or ())
        self._n = processes or len(self._cores) or 1
        self._connections = connections
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        """Starts the processes. Raises `OSError` where nothing listens."""
        address = _address(self._target)
        requests = [
            client.request(each.body, each.headers, path=self._target.prefix + PATH, host=self._target.authority)
            for each in self._traffic.requests
        ]
        for number in range(self._n):
            core = self._cores[number % len(self._cores)] if self._cores else None
            limit = len(range(number, max(self._connections, self._n), self._n))
            self._workers.append(_Worker(number, core, address, requests, self._traffic.rows.tolist(), limit))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exception: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends them, whatever they do."""
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [worker.pid for worker in self._workers]

    def offer(
        self,
        due_s: NDArray[np.float64],
        place: NDArray[np.intp],
        *,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Offered:
        """Sends request `place[i]` of the traffic at `due_s[i]`, sorted, and waits until all is known of all of them.

        due_s, place: (n_requests,). The processes take turns, and start at one moment. `on_progress` is called about
        five times a second. A request takes some 100 bytes of memory until the end. Raises `GeneratorDied`.
        """
        records = [worker.load(due_s[k :: self._n], place[k :: self._n]) for k, worker in enumerate(self._workers)]
        self._answers()
        began, start_s = time.time() + LEAD_S, time.perf_counter() + LEAD_S
        for worker in self._workers:
            worker.start(start_s)
        live = _Live(records, due_s, start_s, self.pids)
        senders = self._answers((lambda: on_progress(live.look())) if on_progress else None)
        return Offered.of(records, senders, began)

    def _answers(self, meanwhile: Callable[[], None] | None = None) -> list[Any]:
        """What each process says next; calls `meanwhile` every now and then until all have said it."""
        answers: dict[int, Any] = {}
        while len(answers) < self._n:
            silent = {worker.pipe: worker for worker in self._workers if worker.number not in answers}
            for pipe in connection.wait(list(silent), PROGRESS_EVERY_S if meanwhile else None):
                worker = silent[pipe]  # type: ignore[index]
                answers[worker.number] = worker.answer()
            if meanwhile:
                meanwhile()
        return [answers[worker.number] for worker in self._workers]


class _Worker:
    """A generator process as its parent sees it."""

    def __init__(
        self,
        number: int,
        core: int | None,
        address: tuple[str, int],
        requests: Sequence[bytes],
        rows: Sequence[int],
        limit: int,
    ) -> None:
        self.number = number
        self.pipe, theirs = _SPAWN.Pipe()
        self._process = _SPAWN.Process(
            target=_work,
            args=(theirs, core, address, requests, rows, limit),
            name=f"generator process {number + 1}",
            daemon=True,
        )
        self._process.start()
        theirs.close()  # so that the pipe ends with the process

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid
        return self._process.pid

    def load(self, due_s: NDArray[np.float64], place: NDArray[np.intp]) -> Record:
        """Hands a schedule over; what becomes of it appears in the record. Raises `GeneratorDied`."""
        memory = os.memfd_create("schedule")
        try:
            os.ftruncate(memory, Record.size(len(due_s)))
            record = Record.of(due_s, place, memoryview(mmap.mmap(memory, 0)))
            self.pipe.send(len(due_s))
            reduction.send_handle(self.pipe, memory, self.pid)
        except OSError:
            raise self._died() from None
        finally:
            os.close(memory)
        return record

    def start(self, start_s: float) -> None:
        """The schedule's 0, of time.perf_counter(). Raises `GeneratorDied`."""
        try:
            self.pipe.send(start_s)
        except OSError:
            raise self._died() from None

    def answer(self) -> Any:
        """What the process says next. Raises `GeneratorDied`."""
        try:
            return self.pipe.recv()
        except (EOFError, OSError):
            raise self._died() from None

    def end(self) -> None:
        """Ends the process, whatever it does."""
        self._process.terminate()
        self._process.join()
        self._process.close()
        self.pipe.close()

    def _died(self) -> GeneratorDied:
        self._process.join()
        return GeneratorDied(f"{self._process.name} (pid {self.pid})", self._process.exitcode)


class _Live:
    """Counts what was noted since the last look."""

    def __init__(
        self, records: Sequence[Record], due_s: NDArray[np.float64], start_s: float, pids: Sequence[int]
    ) -> None:
        self._records, self._due_s, self._start_s, self._pids = records, due_s, start_s, pids
        self._cpu_s = [machine.cpu_s([pid]) for pid in pids]
        self._seen = [0] * len(records)
        self._n = np.zeros(len(Outcome), dtype=np.int64)
        self._recent: deque[NDArray[np.float64]] = deque(maxlen=RECENT)

    def look(self) -> Progress:
        """What became of the schedule so far."""
        self._recent.append(np.concatenate([self._new(k, record) for k, record in enumerate(self._records)]))
        n = {outcome: int(self._n[outcome]) for outcome in Outcome}
        begun, at_s = sum(record.counts[0] for record in self._records), time.perf_counter() - self._start_s
        latency_ms = np.concatenate(self._recent) * 1000
        p50_ms, p99_ms = np.percentile(latency_ms, (50, 99)).tolist() if len(latency_ms) else (None, None)
        return Progress(
            at_s=at_s,
            due=int(np.searchsorted(self._due_s, at_s, side="right")),
            sent=begun - n[Outcome.UNSENT],
            right=n[Outcome.RIGHT],
            refused=n[Outcome.REFUSED],
            failed=n[Outcome.FAILED],
            wrong=n[Outcome.WRONG],
            unsent=n[Outcome.UNSENT],
            in_flight=begun - sum(n.values()),
            p50_ms=p50_ms,
            p99_ms=p99_ms,
            cpu_s=tuple(machine.cpu_s([pid]) - before for pid, before in zip(self._pids, self._cpu_s, strict=True)),
        )

    def _new(self, k: int, record: Record) -> NDArray[np.float64]:
        """Latencies of the right answers that came since the last look."""
        n_finished: int = record.counts[1]
        numbers = np.asarray(record.finished)[self._seen[k] : n_finished]
        self._seen[k] = n_finished
        outcome = outcomes(np.asarray(record.status)[numbers], np.asarray(record.is_wrong)[numbers])
        self._n += np.bincount(outcome, minlength=len(Outcome))
        latency_s: NDArray[np.float64] = np.asarray(record.latency_s)[numbers[outcome == Outcome.RIGHT]]
        return latency_s


def _address(target: Target) -> tuple[str, int]:
    """The address and port at which something listens. Raises `OSError`."""
    with socket.create_connection((target.host, target.port), timeout=10) as probe:
        host, port, *_ = probe.getpeername()
    return host, port


def _work(
    pipe: Connection,
    core: int | None,
    address: tuple[str, int],
    requests: Sequence[bytes],
    rows: Sequence[int],
    limit: int,
) -> None:
    """A generator process: schedules come through `pipe` until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it as well, and ends this one
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    if core is not None:
        os.sched_setaffinity(0, {core})
    generator = Generator(address, requests, limit, Answers(rows).fault, owner=pipe.fileno())
    try:
        while True:
            n = pipe.recv()
            memory = reduction.recv_handle(pipe)
            record = Record(n, memoryview(mmap.mmap(memory, 0)))
            os.close(memory)
            pipe.send("loaded")
            pipe.send(generator.offer(record, pipe.recv()))
    except EOFError:
        generator.close()
