"""wrk, the closed-loop load generator: as many requests in flight as it has connections, a new one for each answer.

A slow server slows it down, so its latencies are those of clients that wait for each other. For a load that does not
wait, see `open_loop`.
"""

from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from load_tests.machine import pinned

SCRIPT = Path(__file__).with_name("predict.lua")
TIMEOUT_S = 30
"""An answer that takes longer is counted as timed out; longer than any run, so that slow answers are slow, not lost."""


@dataclass(frozen=True)
class Load:
    """What wrk saw in one run."""

    seconds: float
    answers_200: int
    answers_other: int
    broken: int
    """Connections that could not be made, or broke."""
    timed_out: int
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    """Latencies of all answers, whatever their status."""
    generator_cpu_s: float

    @property
    def requests(self) -> int:
        """All that came to an end, one way or another."""
        return self.answers_200 + self.answers_other + self.broken + self.timed_out


def version() -> str:
    """wrk's version. Raises `FileNotFoundError` with a sentence where there is none."""
    if shutil.which("wrk") is None:
        raise FileNotFoundError("wrk is needed: apt-get install wrk")
    shown = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"wrk (\S+)", shown)
    return found[1] if found else "unknown"


def run(port: int, bodies: Path, *, connections: int, seconds: int, cores: Iterable[int]) -> Load:
    """`seconds` of load on `cores`, by POST /predict with the lines of `bodies` in turn."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"--timeout={TIMEOUT_S}s", "-s", str(SCRIPT)]
    command += [f"http://127.0.0.1:{port}/predict", "--", str(bodies)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = subprocess.run(pinned(cores, command), capture_output=True, text=True, check=True, timeout=seconds + 60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Load(**json.loads(shown.stdout.splitlines()[-1]), generator_cpu_s=cpu_s)
