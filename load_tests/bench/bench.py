"""What the scenarios share: models, servers that were checked, rounds, and a measured run."""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from load_tests import machine
from load_tests.bench import checks, summary, work, wrk
from load_tests.bench.engine import Engine
from load_tests.bench.peers import PEERS, Peer
from load_tests.bench.plan import Plan
from load_tests.bench.run import Run, Usage
from load_tests.bench.serving import Server
from load_tests.bench.work import Model, Work
from load_tests.machine import Cores

QUIET = 0.05
"""Cores' worth of work of all servers together below which they are quiet."""

QUIET_S = 0.2
SETTLE_S = 5.0
"""How long they are watched, and how long at most they are awaited."""


@dataclass(frozen=True)
class Failure:
    """A contestant whose figures are not told, and why."""

    contestant: str
    scenario: str
    why: str


class Bench:
    """One go of the benchmark, in a scratch `folder`. Use it as a context: leaving it ends all servers."""

    def __init__(self, plan: Plan, folder: Path, peers: Sequence[Peer] = PEERS, *, say: Callable[[str], None]) -> None:
        self.plan = plan
        self.cores = Cores.divided()
        self.scenario = ""
        self.failures: list[Failure] = []
        self.skipped: dict[str, str] = {}
        self.peers = peers
        self.rng = np.random.default_rng(plan.seed)
        self.say = say
        self._folder = folder
        self._servers: list[Server] = []

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self._end(list(self._servers))

    @cached_property
    def reference(self) -> Model:
        """The model that `make serve` serves."""
        self.say("training the reference model")
        with machine.on(self.cores.all):
            return work.reference(self.plan, self._folder / "reference")

    @cached_property
    def dear(self) -> Model:
        """A forest that takes milliseconds for a row."""
        return self._forest("dear", self.plan.dear_trees)

    @cached_property
    def brittle(self) -> Model:
        """A forest so small that many rows go into a batch, which a poisoned row makes fail."""
        return self._forest("brittle", self.plan.brittle_trees)

    @cached_property
    def versions(self) -> tuple[Model, ...]:
        """The reference model and two others that may stand in for it, as versions of one name."""
        model = self.reference
        self.say("training other versions")
        with machine.on(self.cores.all):
            return work.versions(self.plan, model, self._folder)

    def engine(self, model: Model) -> Engine:
        """ONNX Runtime with `model`, on the server's core."""
        return Engine(model.folder, model.X, self.cores.server)

    def serve(self, peers: Sequence[Peer], model: Model, work: Work) -> list[Server]:
        """Exactly these contestants, running; those that cannot run, or answer wrongly, are reported and left out."""
        wanted = [(peer, model.tag) for peer in peers]
        self._end([server for server in self._servers if server.serves not in wanted or not server.is_running])
        kept = [server.peer for server in self._servers]
        begun = [self._start(peer, model) for peer in self._able(peers) if peer not in kept]
        for server in begun:
            why = server.fault_at_start(work.bodies[0])
            if why is not None:
                self._fail(server, why)
        self.check(model, work)
        return sorted(self._servers, key=lambda server: peers.index(server.peer))

    def check(self, model: Model, work: Work) -> None:
        """Compares all servers' answers with the model's; a contestant that is wrong is reported and ended."""
        for server in list(self._servers):
            why = checks.fault(server.peer, server.port, work, model.folder)
            if why is not None:
                self._fail(server, why)

    def in_order(self, servers: Sequence[Server]) -> list[Server]:
        """The contestants in an order drawn anew."""
        return [servers[place] for place in self.rng.permutation(len(servers))]

    def told(self, runs: Iterable[Run], ours: str) -> dict[str, Any]:
        """What a scenario tells of its runs; those of contestants that failed in it are left out."""
        failed = {failure.contestant for failure in self.failures if failure.scenario == self.scenario}
        kept = [run for run in runs if run.contestant not in failed]
        return {
            "figures": summary.figures(kept),
            "ratios": summary.ratios(kept, ours),
            "caveats": summary.caveats(kept),
            "runs": kept,
        }

    def warm_up(self, servers: Iterable[Server], work: Work, connections: int) -> None:
        """Load that is not counted, for each server."""
        for server in servers:
            if self.plan.warm_up_s:
                self._load(server, work, connections, self.plan.warm_up_s)

    def measure(
        self,
        server: Server,
        work: Work,
        number: int,
        connections: int,
        seconds: int,
        *,
        beside: AbstractContextManager[object] | None = None,
    ) -> Run:
        """Round `number` of a contestant: wrk for `seconds`, begun once all servers are quiet, inside of `beside`."""
        is_settled = self.settle()
        machine.forget_peak(server.pids)
        with self.watch(server) as watch, beside or nullcontext():
            load = self._load(server, work, connections, seconds)
            watch.generator_cpu_s, watch.seconds = load.generator_cpu_s, load.seconds
        run = Run(
            contestant=server.peer.name,
            round=number,
            connections=connections,
            rows=work.n_rows,
            load=load,
            server_cpu_us=watch.server_cpu_s / load.answers_200 * 1e6 if load.answers_200 else None,
            peak_mb=machine.peak_mb(server.pids),
            usage=watch.usage,
            bound_by=watch.usage.bound_by(server.peer.workers),
            is_disturbed=watch.usage.is_disturbed,
            is_settled=is_settled,
        )
        self.say(f"{self.scenario} {run}")
        return run

    def settle(self, limit_s: float = SETTLE_S) -> bool:
        """Waits until the servers are quiet; whether they were in the end."""
        begun = time.perf_counter()
        while time.perf_counter() < begun + limit_s:
            pids = [pid for server in self._servers for pid in server.pids]
            before, at = machine.cpu_s(pids), time.perf_counter()
            time.sleep(QUIET_S)
            if machine.cpu_s(pids) - before <= QUIET * (time.perf_counter() - at):
                return True
        return False

    @contextmanager
    def watch(self, server: Server) -> Iterator[Watch]:
        """The CPU of both sides while the context lasts; inside it, set what the generator says of itself."""
        server_cores = self.cores.server if server.peer.is_pinned else self.cores.all
        generator_cores = self.cores.generator if server.peer.is_pinned else self.cores.all
        pids, watch = server.pids, Watch()

        def now() -> list[float]:
            busy = (machine.busy_s(cores) for cores in (server_cores, generator_cores, self.cores.all))
            return [
                *busy,
                machine.cpu_s(pids),
                machine.stolen_s(self.cores.all),
                sum(os.times()[:4]),  # with that of wrk, which has ended then
                time.perf_counter(),
            ]

        before = now()
        yield watch
        server_busy, generator_busy, busy, cpu_s, stolen_s, own_s, lasted_s = np.subtract(now(), before).tolist()
        seconds = watch.seconds or lasted_s
        watch.server_cpu_s = cpu_s
        watch.usage = Usage(
            server=cpu_s / seconds,
            generator=watch.generator_cpu_s / seconds,
            others=max(0.0, busy - cpu_s - own_s) / seconds,
            stolen=stolen_s / seconds,
            server_cores_busy=min(1.0, server_busy / seconds / len(server_cores)),
            generator_cores_busy=min(1.0, generator_busy / seconds / len(generator_cores)),
            are_apart=not server_cores & generator_cores,
        )

    def _forest(self, name: str, n_trees: int) -> Model:
        model = self.reference
        self.say(f"drawing the {name} model")
        return work.forest(name, n_trees, self.plan.seed, self._folder / name, model)

    def _able(self, peers: Iterable[Peer]) -> list[Peer]:
        """Those whose packages are installed; the others are noted as skipped."""
        for peer in peers:
            if peer.missing:
                self.skipped[peer.name] = f"{', '.join(peer.missing)} not installed: see requirements/bench.in"
        return [peer for peer in peers if not peer.missing]

    def _start(self, peer: Peer, model: Model) -> Server:
        cores = self.cores.server if peer.is_pinned else self.cores.all
        server = Server(peer, model, cores, self._folder / f"{peer.name}.log")
        self._servers.append(server)
        return server

    def _fail(self, server: Server, why: str) -> None:
        self.failures.append(Failure(server.peer.name, self.scenario, why))
        self.say(f"{self.scenario}: {server.peer.name} FAILED: {why}")
        self._end([server])

    def _end(self, servers: Sequence[Server]) -> None:
        for server in servers:
            server.ask_to_end()
        for server in servers:
            server.end()
            self._servers.remove(server)

    def _load(self, server: Server, work: Work, connections: int, seconds: int) -> wrk.Load:
        cores = self.cores.generator if server.peer.is_pinned else self.cores.all
        return wrk.run(server.port, work.file, connections=connections, seconds=seconds, cores=cores)


@dataclass
class Watch:
    """What `Bench.watch` found; complete once its context has ended."""

    generator_cpu_s: float = 0.0
    """Of the load generator, which has ended then and is not asked."""
    seconds: float = 0.0
    """How long there was load; 0: as long as the context."""
    server_cpu_s: float = 0.0
    usage: Usage = dataclasses.field(default_factory=lambda: Usage(0, 0, 0, 0, 0, 0, are_apart=True))


def rounds(n: int) -> range:
    """The rounds' numbers."""
    return range(1, n + 1)


def say(text: str) -> None:
    """One line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def plain(value: Any) -> Any:
    """Dataclasses as dictionaries, floats to 6 significant digits and NaN as None, for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str | bytes):
        return [plain(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
