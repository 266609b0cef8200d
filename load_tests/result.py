"""The file of a load test: what was asked, every stage, and what follows from them; written and read as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from load_tests.objective import Objective
from load_tests.stage import Stage


class Options(msgspec.Struct, frozen=True):
    """What was asked for, as the report says it."""

    url: str
    model: str | None
    """The version that was served for the test; None where a running server was the target."""
    settings: dict[str, str]
    """CAUSEWAY_* of the server that was started."""
    shape: str
    """`ramp`, `soak` or `spike`."""
    arrivals: str
    """`constant` or `poisson`."""
    mix: dict[str, float]
    """Share of each kind of user."""
    rows: dict[str, int]
    """Rows in their requests."""
    stage_s: float
    warm_up_s: float
    seed: int
    repeats: int
    generators: int
    """Processes that send."""
    deadline_ms: float | None = None
    """X-Timeout-Ms of every request; None: it had none."""
    connections: int | None = None
    """Most that were open at once; None: nobody noted it."""
    command: str = ""
    """The shell line that asks for the same."""


class Fit(msgspec.Struct, frozen=True):
    """A model of throughput or latency, fitted to the stages well below the tipping point."""

    name: str
    """`Universal Scalability Law` or `M/G/1`, say."""
    parameters: dict[str, float]
    predicted_rate: float | None
    """Requests a second at which the objective fails by it; None where it never does."""
    error: float
    """Root mean square of the relative residuals of the stages that it was fitted to, each left out in turn."""
    curve: list[tuple[float, float]]
    """(requests a second, p99 ms or goodput) for the plot, as `of` says."""
    of: str
    """`p99_ms` or `throughput`."""


class Repeat(msgspec.Struct, frozen=True):
    """One whole ramp."""

    stages: list[Stage]
    sustained_rate: float | None
    """Highest rate in requests a second that met the objective as all below it did; None where none did, or the
    generator was the limit."""
    tipping_rate: float | None
    """Lowest rate at which no stage did; None where there is none, or the generator was the limit."""
    why: str
    """In a clause, what ended it: which part of the objective was missed, and what had nothing left."""
    limit: str
    """`server`, `generator`, `machine`, `latency` (nobody was busy), or `none` where nothing tipped."""


class Sample(msgspec.Struct, frozen=True):
    """A moment of a soak or a spike."""

    at_s: float
    rate: float
    right: int
    refused: int
    failed: int
    p50_ms: float | None
    p99_ms: float | None
    memory_mb: float | None
    open_files: int | None
    threads: int | None
    server_cores: float | None


class Check(msgspec.Struct, frozen=True):
    """A question to a soak or a spike, and its answer."""

    name: str
    is_passed: bool
    says: str
    """In a sentence, with its figures."""


class Result(msgspec.Struct, frozen=True):
    """Everything of one load test."""

    name: str
    """What the plots call it."""
    at: str
    """ISO 8601, UTC."""
    circumstances: dict[str, Any]
    """Commit, processor, cores, versions, seed."""
    options: Options
    objective: Objective
    repeats: list[Repeat]
    says: str
    """The sentence that a person wants."""
    is_generator_limited: bool
    """Then there is no capacity figure."""
    generator_us: float | None
    """CPU microseconds of the generator for a request, over all stages."""
    fits: list[Fit] = []
    samples: list[Sample] = []
    checks: list[Check] = []

    def save(self, path: Path) -> None:
        """Writes it as indented JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n")

    @classmethod
    def load(cls, path: Path) -> Result:
        """The result in a file. Raises `msgspec.ValidationError` where it is none, and `OSError`."""
        return msgspec.json.decode(path.read_bytes(), type=cls)
