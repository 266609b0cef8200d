"""What server, generators and machine had used at one moment; the difference of two is what a stage used."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

from load_tests import machine, metrics
from load_tests.served import Server
from load_tests.stage import Usage


@dataclass(frozen=True)
class Used:
    """Counters of this machine, all of them since some beginning."""

    at_s: float
    """time.perf_counter()."""
    server_s: dict[int, float]
    """CPU seconds of the server's processes by id; none where they cannot be seen from here."""
    generator_s: dict[int, float]
    """Of those that send."""
    busy_s: float
    """Of all cores."""
    resident_mb: float
    """Memory of the server's processes."""

    @classmethod
    def now(cls, server: Server, generators: Sequence[int]) -> Used:
        """As /proc has them."""
        pids, at_s = server.pids, time.perf_counter()
        return cls(
            at_s=at_s,
            server_s=machine.cpu_s_by_process(pids),
            generator_s=machine.cpu_s_by_process(generators),
            busy_s=machine.busy_s(range(os.cpu_count() or 1)),
            resident_mb=machine.resident_mb(pids),
        )


@dataclass(frozen=True)
class Told:
    """What the server says of itself under /metrics."""

    at_s: float
    """time.perf_counter() when it had said it; a busy one takes its time."""
    series: metrics.Series

    @classmethod
    def now(cls, server: Server) -> Told:
        """Asks it."""
        series = metrics.series(server.url)
        return cls(time.perf_counter(), series)


@dataclass(frozen=True)
class Moment:
    """Both, of about the same time."""

    used: Used
    told: Told

    def usage(self, earlier: Moment) -> Usage:
        """CPU since `earlier`, and the memory of now; a server that cannot be seen from here is believed."""
        used, before = self.used, earlier.used
        seconds = used.at_s - before.at_s
        server = _differences(before.server_s, used.server_s)
        generators = _differences(before.generator_s, used.generator_s)
        return Usage(
            server=sum(server) / seconds if server else self._told_cores(earlier),
            busiest_server_process=max(server) / seconds if server else None,
            generator=sum(generators) / seconds,
            busiest_generator=max(generators) / seconds,
            machine=min(1.0, (used.busy_s - before.busy_s) / seconds / (os.cpu_count() or 1)),
            memory_mb=used.resident_mb if server else metrics.resident_mb(self.told.series),
        )

    def _told_cores(self, earlier: Moment) -> float | None:
        before_s, after_s = metrics.cpu_s(earlier.told.series), metrics.cpu_s(self.told.series)
        if before_s is None or after_s is None:
            return None
        return (after_s - before_s) / (self.told.at_s - earlier.told.at_s)


def _differences(before: dict[int, float], after: dict[int, float]) -> list[float]:
    """Of each process that lives; one that came meanwhile has used all that it has."""
    return [seconds - before.get(pid, 0.0) for pid, seconds in after.items()]
