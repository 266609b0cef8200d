"""One contestant under one load in one round: what was answered, what it cost, and what bounded it."""

from __future__ import annotations

from dataclasses import dataclass

from load_tests.bench.wrk import Load

FULL = 0.95
"""A core that ran for this share of the time had nothing left."""

DISTURBED = 0.10
"""Cores' worth of other people's work from which on a run counts as disturbed."""


@dataclass(frozen=True)
class Usage:
    """CPU during a run, each in cores: 1.0 is one core all the time."""

    server: float
    """The server's processes."""
    generator: float
    """The load generator's."""
    others: float
    """Everybody else's on the same cores."""
    stolen: float
    """What the hypervisor gave to other machines."""
    server_cores_busy: float
    generator_cores_busy: float
    """Share of the time that each side's cores ran anything, 0 to 1."""
    are_apart: bool
    """Whether the two sides had cores of their own."""

    def bound_by(self, workers: int) -> str:
        """What had nothing left: `server`, `generator`, `server and generator`, or `none` of them.

        `none`: both sides had time left, so the clients waited for something else than CPU. Where the two share their
        cores, `machine` when these had nothing left, otherwise `server` when each of its `workers` had a core's worth.
        """
        server, generator = self.server_cores_busy >= FULL, self.generator_cores_busy >= FULL
        if not self.are_apart:
            return "machine" if server else "server" if self.server >= FULL * workers else "none"
        return " and ".join(side for side, full in (("server", server), ("generator", generator)) if full) or "none"

    @property
    def is_disturbed(self) -> bool:
        """Whether others used enough of the cores to matter."""
        return self.others + self.stolen > DISTURBED


@dataclass(frozen=True)
class Run:
    """A closed-loop run."""

    contestant: str
    round: int
    connections: int
    rows: int
    """Rows in each request."""
    load: Load
    """What wrk saw."""
    server_cpu_us: float | None
    """User and system microseconds of the server for each answer with status 200; None without such."""
    peak_mb: float
    """Largest resident memory of each of the server's processes during the run, summed."""
    usage: Usage
    bound_by: str
    is_disturbed: bool
    is_settled: bool
    """Whether all servers were quiet before it."""

    @property
    def requests_per_s(self) -> float:
        """Answers with status 200 a second."""
        return self.load.answers_200 / self.load.seconds

    @property
    def rows_per_s(self) -> float:
        """Rows in answers with status 200 a second."""
        return self.requests_per_s * self.rows

    def __str__(self) -> str:
        return (
            f"{self.round}: {self.contestant} at {self.connections}: {self.rows_per_s:.0f} rows/s, "
            f"p99 {self.load.p99_ms:.1f} ms, bound by {self.bound_by}" + (", disturbed" if self.is_disturbed else "")
        )
