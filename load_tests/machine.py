"""What the machine tells: cores and who runs on which, CPU time and memory of processes. Linux only."""

from __future__ import annotations

import os
import platform
import random
import re
import resource
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Cores:
    """Which cores the server and the load generator run on."""

    server: frozenset[int]
    generator: frozenset[int]

    @classmethod
    def divided(cls, server: int = 1, generator: int = 1) -> Cores:
        """`server` cores for the server, and of those that are left `generator` for the load generator.

        Where none is left both have all of them, which makes the figures those of both together.
        """
        available = sorted(os.sched_getaffinity(0))
        if len(available) <= server:
            return cls(frozenset(available), frozenset(available))
        return cls(frozenset(available[:server]), frozenset(available[server : server + generator]))

    @property
    def are_apart(self) -> bool:
        """Whether neither side takes time from the other."""
        return not self.server & self.generator

    @property
    def all(self) -> frozenset[int]:
        """Both."""
        return self.server | self.generator


@contextmanager
def on(cores: Iterable[int]) -> Iterator[None]:
    """This thread on `cores` for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pinned(cores: Iterable[int], command: Iterable[str]) -> list[str]:
    """`command`, started on `cores` with all its children."""
    return ["taskset", "--cpu-list", ",".join(map(str, sorted(cores))), *command]


def busy_s(cores: Iterable[int]) -> float:
    """Seconds since boot that `cores` ran anything at all; what the hypervisor took from them is not among them."""
    return sum(sum(_core_ticks(core)[:3]) + sum(_core_ticks(core)[5:7]) for core in cores) * TICK_S


def stolen_s(cores: Iterable[int]) -> float:
    """Seconds since boot that `cores` wanted to run and the hypervisor ran somebody else."""
    return sum(_core_ticks(core)[7] for core in cores) * TICK_S


def _core_ticks(core: int) -> list[int]:
    """user, nice, system, idle, iowait, irq, softirq, steal, ... of one core."""
    text = (PROC / "stat").read_text()
    line = re.search(rf"^cpu{core} (.*)$", text, re.MULTILINE)
    assert line, f"/proc/stat has no cpu{core}"
    return [int(ticks) for ticks in line[1].split()]


def tree(pid: int) -> list[int]:
    """`pid` and all that descend from it and live."""
    children: dict[int, list[int]] = {}
    for path in PROC.glob("[0-9]*/stat"):
        with suppress(OSError):  # a process that ended meanwhile
            children.setdefault(int(_fields(path)[1]), []).append(int(path.parent.name))
    found = [pid] if (PROC / str(pid)).exists() else []
    for parent in found:
        found += children.get(parent, [])
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """User and system seconds of processes and of their children that have ended."""
    return sum(cpu_s_by_process(pids).values())


def cpu_s_by_process(pids: Iterable[int]) -> dict[int, float]:
    """The same of each of them that lives."""
    used = {}
    for pid in pids:
        with suppress(OSError):
            used[pid] = sum(int(field) for field in _fields(PROC / f"{pid}/stat")[11:15]) * TICK_S
    return used


def _fields(stat: Path) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, ..."""
    return stat.read_text().rpartition(") ")[2].split()


def resident_mb(pids: Iterable[int]) -> float:
    """Resident memory in MB; pages that processes share count for each of them."""
    return _status_mb(pids, "VmRSS")


def peak_mb(pids: Iterable[int]) -> float:
    """The sum of each process's largest resident memory since `forget_peak`, in MB."""
    return _status_mb(pids, "VmHWM")


def forget_peak(pids: Iterable[int]) -> None:
    """The largest resident memory starts again from what it is now (proc(5), clear_refs)."""
    for pid in pids:
        with suppress(OSError):
            (PROC / f"{pid}/clear_refs").write_text("5")


def _status_mb(pids: Iterable[int], field: str) -> float:
    total = 0
    for pid in pids:
        with suppress(OSError):
            line = re.search(rf"^{field}:\s+(\d+) kB", (PROC / f"{pid}/status").read_text(), re.MULTILINE)
            total += int(line[1]) if line else 0
    return total * 1024 / 1e6


@dataclass(frozen=True)
class Held:
    """What processes hold; a difference says what they hold more."""

    open_files: int
    """File descriptors, sockets among them."""
    threads: int
    resident_mb: float

    def __sub__(self, earlier: Held) -> Held:
        return Held(
            self.open_files - earlier.open_files,
            self.threads - earlier.threads,
            self.resident_mb - earlier.resident_mb,
        )


def held(pids: Iterable[int]) -> Held:
    """What processes hold now."""
    pids = list(pids)
    return Held(_entries(pids, "fd"), _entries(pids, "task"), resident_mb(pids))


def _entries(pids: Iterable[int], folder: str) -> int:
    """Files in /proc/PID/`folder`."""
    total = 0
    for pid in pids:
        with suppress(OSError):
            total += sum(1 for _ in (PROC / f"{pid}/{folder}").iterdir())
    return total


def allow_open_files(n: int) -> None:
    """As many here and in the processes that are started from here, where the system allows it."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    is_less = most != resource.RLIM_INFINITY and most < n
    resource.setrlimit(resource.RLIMIT_NOFILE, (most if is_less else n, most))


def cpu_name() -> str:
    """The processor's name where the system tells it."""
    info = PROC / "cpuinfo"
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    return found[1] if found else platform.processor()


def free_port() -> int:
    """A port of the loopback interface that nothing uses.

    Not one of those that Linux gives to outgoing connections: a server takes seconds to start, and by then one of the
    many connections of a load test could have it.
    """
    while True:
        port = random.randrange(20_000, 32_768)  # noqa: S311 - not a secret
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
