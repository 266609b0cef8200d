"""Whether our load generator tells the truth about a server of which it is known, and whether plain Locust does.

`python -m load_tests.studies.truth` takes about four minutes. Prints the README's table and writes results/truth.json.

The server serves one request at a time, in turn, each for S = 2 ms, and does nothing for D = 0.5 s every T = 5 s.
Requests come evenly, L = 200 a second, so its utilisation is r = L S = 0.4. Locust's users come as evenly, until an
answer is late: then they wait for it, and do not make up for what they did not ask. A few of them that ask often are
one run, many that ask rarely another. A window is three periods with a stall in the middle of each, from the first
request on; shorter ones are without stalls. Rounds are repeated with the contestants in another order. The generators
have a core, and the server another one where there is one.

Theory. A request that comes a seconds after a stall began finds L a requests before it, whose service of r a in all is
still to be done, and D - a of the stall: it is answered after D + S - (1 - r) a. So the latency falls from D + S at the
slope 1 - r until the line is empty, D / (1 - r) after the stall began: a delay cycle (Kleinrock, Queueing Systems,
volume II, 1976, chapter 3). Slower than x >= S are those with a < (D + S - x) / (1 - r), which is a share
(D + S - x) / ((1 - r) T) of the requests. As they come evenly, the number in one stall differs from that by less than
one request; Poisson arrivals have the same mean for x far above S, and scatter about it.

The thresholds are where Locust's rounding of latencies to two digits has a boundary, so that it costs nothing.
"""

from __future__ import annotations

import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import reduce
from importlib.metadata import version
from operator import getitem
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from load_tests.circumstances import circumstances
from load_tests.machine import Cores, free_port, pinned
from load_tests.open_loop import arrivals
from load_tests.open_loop.client import HOST
from load_tests.open_loop.fleet import Fleet
from load_tests.studies.known_server import Server
from load_tests.traffic import Kind, Request, Traffic

ROOT = Path(__file__).parents[2]
RESULT = ROOT / "load_tests/results/truth.json"
LOCUSTFILE = Path(__file__).with_name("plain_locust.py")
SEED = 0
"""Nothing is drawn."""
STALLING = Server(service_s=0.002, stall_s=0.5, period_s=5.0)
RATE = 200.0
PERIODS = 3
"""In a window with stalls."""
CALM_S = 5.0
"""A window without."""
ROUNDS = 3
THRESHOLDS_MS = (55, 125, 255, 375)
QUANTILES = {"p50_ms": 0.5, "p95_ms": 0.95, "p99_ms": 0.99, "p999_ms": 0.999}
FEW, MANY = 10, 200
"""Users of Locust."""
CONNECTIONS = 500
"""At most; about `RATE` times the stall are needed."""
TOLERANCE = 0.1
"""Relative; what we promise of our shares."""
PATIENCE_S = 30.0


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    stalling: Server = STALLING
    rounds: int = ROUNDS
    periods: int = PERIODS
    calm_s: float = CALM_S
    contestants: tuple[str, ...] = ("ours", "few", "many")

    @property
    def windows(self) -> dict[str, tuple[Server, float]]:
        """The server and the seconds of each."""
        calm = replace(self.stalling, stall_s=0.0)
        return {"stalling": (self.stalling, self.periods * self.stalling.period_s), "calm": (calm, self.calm_s)}


@dataclass(frozen=True)
class Theory:
    """Of a server that is asked evenly, `rate` times a second."""

    server: Server
    rate: float

    @property
    def utilisation(self) -> float:
        """Share of the time between stalls that is needed, below 1."""
        return self.rate * self.server.service_s

    def share_slower(self, latency_s: float) -> float:
        """Share of the requests that take longer, 0 to 1."""
        if latency_s < self.server.service_s:
            return 1.0
        beyond_s = self.server.stall_s + self.server.service_s - latency_s
        return max(0.0, beyond_s / ((1 - self.utilisation) * self.server.period_s))

    def quantile(self, q: float) -> float:
        """Seconds that a share `q` of the requests take at most."""
        longest_s = self.server.stall_s + self.server.service_s
        return max(self.server.service_s, longest_s - (1 - q) * (1 - self.utilisation) * self.server.period_s)

    def figures(self, seconds: float) -> dict[str, Any]:
        """What a generator should report."""
        return {
            "requests": round(self.rate * seconds),
            "slower": {str(ms): self.share_slower(ms / 1_000) for ms in THRESHOLDS_MS},
            **{name: 1_000 * self.quantile(q) for name, q in QUANTILES.items()},
        }


def main() -> None:
    """Measures everything once, prints it and keeps it."""
    begun = time.perf_counter()
    result = measure(Plan())
    result["took_s"] = time.perf_counter() - begun
    RESULT.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    print(markdown(result))
    print(f"our worst share is off by {worst_error(result):.1%} in any round; {TOLERANCE:.0%} is what we promise")


def measure(plan: Plan) -> dict[str, Any]:
    """The result, but for how long it took."""
    head = circumstances(SEED)
    return {
        **head,
        "versions": {**head["versions"], "locust": version("locust")},
        "settings": {
            **asdict(plan.stalling),
            "rate": RATE,
            "periods": plan.periods,
            "calm_s": plan.calm_s,
            "rounds": plan.rounds,
            "users": {"few": FEW, "many": MANY},
        },
        "theory": {name: Theory(server, RATE).figures(s) for name, (server, s) in plan.windows.items()},
        "rounds": [
            {
                contestant: {name: measured(contestant, *window) for name, window in plan.windows.items()}
                for contestant in turned(plan.contestants, number)
            }
            for number in range(plan.rounds)
        ],
    }


def measured(contestant: str, server: Server, seconds: float) -> dict[str, Any]:
    """What one of them reports of a fresh server, and how late the server was itself."""
    cores = Cores.divided()
    with serving(server, cores) as (port, lateness):
        figures = CONTESTANTS[contestant](port, seconds, cores)
    return {**figures, "server": lateness}


@contextmanager
def serving(server: Server, cores: Cores) -> Iterator[tuple[int, dict[str, float]]]:
    """A known server's port; afterwards, how late it was."""
    port, lateness = free_port(), dict[str, float]()
    known = (server.service_s, server.stall_s, server.period_s)
    command = [sys.executable, "-m", "load_tests.studies.known_server", *map(str, (port, *known))]
    with subprocess.Popen(pinned(cores.server, command), cwd=ROOT, stdout=subprocess.PIPE) as process:
        try:
            await_listening(port)
            yield port, lateness
        finally:
            process.send_signal(signal.SIGTERM)
            told, _ = process.communicate()
    lateness |= json.loads(told)


def await_listening(port: int) -> None:
    """Returns once the port takes connections; asks nothing. Raises `TimeoutError`."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            socket.create_connection((HOST, port)).close()
            return
        except ConnectionRefusedError:
            time.sleep(0.02)
    raise TimeoutError(f"nothing listens at port {port} after {PATIENCE_S:g} s")


def ours(port: int, seconds: float, cores: Cores) -> dict[str, Any]:
    """Figures of the open loop."""
    asked = Traffic((Kind("one", 1, 1.0, {}),), (Request("one", 1, b"{}", {}),))
    due_s = arrivals.constant(RATE, seconds)
    with Fleet(f"http://{HOST}:{port}", asked, processes=1, cores=cores.generator, connections=CONNECTIONS) as fleet:
        offered = fleet.offer(due_s, np.zeros(len(due_s), dtype=np.intp))
    return {
        **figures(offered.latency_s),
        "late_p99_ms": 1_000 * float(np.quantile(offered.late_s, 0.99)),
        "faults": offered.faults,
    }


def figures(latency_s: NDArray[np.float64]) -> dict[str, Any]:
    """Of latencies (n,); those without an answer are NaN and slower than anything."""
    known_s = np.nan_to_num(latency_s, nan=np.inf)
    return {
        "requests": len(known_s),
        "slower": {str(ms): float(np.mean(known_s > ms / 1_000)) for ms in THRESHOLDS_MS},
        **{name: 1_000 * float(np.quantile(known_s, q, method="higher")) for name, q in QUANTILES.items()},
    }


def locusts(users: int) -> Callable[[int, float, Cores], dict[str, Any]]:
    """Figures of plain Locust with so many users."""

    def contestant(port: int, seconds: float, cores: Cores) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            kept = Path(folder, "figures.json")
            command = [sys.executable, "-m", "locust", "-f", LOCUSTFILE, "--headless", "--only-summary"]
            command += ["--host", f"http://{HOST}:{port}", "--figures", kept]
            command += ["--users", users, "--spawn-rate", users, "--each", RATE / users, "--seconds", seconds]
            run = pinned(cores.generator, map(str, command))
            subprocess.run(run, cwd=ROOT, check=True, capture_output=True)
            return locust_figures(json.loads(kept.read_text()))

    return contestant


def locust_figures(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Its own percentiles and, from its own histogram, the shares."""
    times = {float(ms): n for ms, n in kept["response_times"].items()}
    slower = {str(limit): sum(n for ms, n in times.items() if ms > limit) / kept["requests"] for limit in THRESHOLDS_MS}
    percentiles = {name: kept["percentiles"][str(q)] for name, q in QUANTILES.items()}
    return {"requests": kept["requests"], "failures": kept["failures"], "slower": slower, **percentiles}


CONTESTANTS = {"ours": ours, "few": locusts(FEW), "many": locusts(MANY)}


def turned(contestants: tuple[str, ...], by: int) -> tuple[str, ...]:
    """Another one first."""
    by %= len(contestants)
    return contestants[by:] + contestants[:by]


def worst_error(result: dict[str, Any]) -> float:
    """The largest relative difference of one of our shares from theory, in any round."""
    theory: dict[str, float] = result["theory"]["stalling"]["slower"]
    found: list[dict[str, float]] = [each["ours"]["stalling"]["slower"] for each in result["rounds"]]
    return max(abs(shares[limit] / share - 1) for shares in found for limit, share in theory.items())


def markdown(result: dict[str, Any]) -> str:
    """The README's table: medians over the rounds, with the least and the most."""
    users = result["settings"]["users"]
    names = ["theory", "`make load-test`", *(f"Locust, {n} users" for n in users.values())]
    share, latency = "{:.1%}".format, "{:.3g} ms".format
    return "\n".join(
        [
            f"| | {' | '.join(names)} |",
            "|---|" + "---|" * len(names),
            *(row(result, f"slower than {ms} ms", share, "stalling", "slower", str(ms)) for ms in THRESHOLDS_MS),
            *(row(result, f"p{100 * q:g}", latency, "stalling", name) for name, q in QUANTILES.items()),
            row(result, "requests", "{:.0f}".format, "stalling", "requests"),
            row(result, "p50 without stalls", latency, "calm", "p50_ms"),
            row(result, "p99 without stalls", latency, "calm", "p99_ms"),
            "",
        ]
    )


def row(result: dict[str, Any], words: str, show: Callable[[float], str], *place: str) -> str:
    """A line of the table; `place` is where the figure is."""
    cells = [show(at(result["theory"], place))]
    for contestant in ("ours", "few", "many"):
        values = [at(each[contestant], place) for each in result["rounds"]]
        least, median, most = map(show, (min(values), statistics.median(values), max(values)))
        cells.append(median if least == most else f"{median} ({least} to {most})")
    return f"| {words} | {' | '.join(cells)} |"


def at(figures: Any, place: tuple[str, ...]) -> float:
    """The figure at a place of nested mappings."""
    figure: float = reduce(getitem, place, figures)
    return figure


if __name__ == "__main__":
    main()
