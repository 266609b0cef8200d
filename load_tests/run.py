"""One load test from its server's start to its result; what was measured before an interrupt is kept."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from rich.console import Console

from causeway.errors import CausewayError
from load_tests import dear, machine, metrics, scaling, served, verdict
from load_tests.circumstances import circumstances
from load_tests.conductor import Conductor, Found
from load_tests.display import Display
from load_tests.machine import Cores
from load_tests.objective import Objective
from load_tests.open_loop.fleet import Fleet, GeneratorDied
from load_tests.options import Load, Shape
from load_tests.ramp import Ramp
from load_tests.result import Options, Repeat, Result
from load_tests.served import Server, ServerGone, Target
from load_tests.soak import Soak
from load_tests.spike import Spike
from load_tests.stage import Stage
from load_tests.traffic import Traffic

INTERRUPTED = "it was interrupted"

SERVER_LOG = "server.log"

SPARE_FILES = 1024
"""Open files of a process besides its connections."""


@dataclass(frozen=True)
class LoadTest:
    """Everything that was asked for."""

    name: str
    """What the plots call it."""
    target: Target
    load: Load
    shape: Shape
    objective: Objective
    out: Path
    """Where the server's log goes."""
    command: str
    """The shell line that asks for it."""

    @property
    def cores(self) -> Cores:
        """Where the two sides run; a server that runs already may be on all of them."""
        if self.target.url is None:
            return Cores.divided(self.target.workers, self.load.generators)
        available = frozenset(os.sched_getaffinity(0))
        return Cores(available, available)


class NothingMeasured(Exception):
    """No stage was done; says why."""


def run(test: LoadTest, console: Console) -> Result:
    """What was found. Raises `NothingMeasured`."""
    begun, at = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    machine.allow_open_files(test.load.connections + SPARE_FILES)
    found, cores = Found(), test.cores
    with machine.on(cores.generator), Display(console, test.objective) as display:
        ended_early = _measure(test, found, cores, display)
    if not found.stages:
        raise NothingMeasured(f"nothing was measured: {ended_early}")
    facts = {
        **circumstances(test.load.seed),
        "server_cores": None if test.target.url else sorted(cores.server),
        "generator_cores": sorted(cores.generator),
        "took_s": time.monotonic() - begun,
    }
    return _result(test, found, at, facts if ended_early is None else {**facts, "ended_early": ended_early})


def _measure(test: LoadTest, found: Found, cores: Cores, display: Display) -> str | None:
    """Fills `found`; says why it ended early, None where it did not."""
    load = test.load
    try:
        display.says("making requests of held-out rows")
        traffic = _traffic(load)
        with _server(test, cores, display) as server, _fleet(load, server, traffic, cores) as fleet:
            found.url, found.model = server.url, metrics.champion(metrics.series(server.url))
            rng = np.random.default_rng(load.seed)
            conductor = Conductor(server, fleet, traffic, test.objective, display, rng, load.is_constant)
            test.shape.run(conductor, found)
    except (ServerGone, GeneratorDied, CausewayError) as exc:
        return str(exc)
    except KeyboardInterrupt:
        return INTERRUPTED
    return None


def _traffic(load: Load) -> Traffic:
    traffic = Traffic.from_held_out(load.kinds, load.seed)
    if load.deadline_ms is None:
        return traffic
    deadline = {"X-Timeout-Ms": f"{load.deadline_ms:.6f}".rstrip("0").rstrip(".")}
    requests = [replace(each, headers={**each.headers, **deadline}) for each in traffic.requests]
    return replace(traffic, requests=tuple(requests))


@contextmanager
def _server(test: LoadTest, cores: Cores, display: Display) -> Iterator[Server]:
    target = test.target
    if target.url is not None:
        yield served.running(target.url)
        return
    with TemporaryDirectory(prefix="causeway-load-test-") as scratch:
        if target.is_dear:
            display.says("drawing a dear model")
            home = Path(scratch, "home")
            target = replace(target, model=dear.in_scratch(home, target.model, test.load.seed))
        display.says(
            f"starting a server of {target.model} on {_named(cores.server)}; sending from {_named(cores.generator)}"
        )
        with served.started(target, cores.server, Path(scratch), test.out / SERVER_LOG) as server:
            yield server


def _fleet(load: Load, server: Server, traffic: Traffic, cores: Cores) -> Fleet:
    pinned = cores.generator if cores.are_apart else None
    return Fleet(server.url, traffic, processes=load.generators, cores=pinned, connections=load.connections)


def _named(cores: frozenset[int]) -> str:
    return f"core{'s' if len(cores) > 1 else ''} {', '.join(map(str, sorted(cores)))}"


def _result(test: LoadTest, found: Found, at: str, facts: dict[str, Any]) -> Result:
    shape, objective = test.shape, test.objective
    told = _judged(found, objective) if isinstance(shape, Ramp) else _checked(shape, found, objective)
    if "ended_early" in facts:
        told["says"] = f"Ended early ({facts['ended_early']}); until then: {told['says']}"
    return Result(
        name=test.name,
        at=at,
        circumstances=facts,
        options=_options(test, found),
        objective=objective,
        generator_us=_generator_us(found.stages),
        samples=found.samples,
        **told,
    )


def _judged(found: Found, objective: Objective) -> dict[str, Any]:
    """What a ramp says."""
    repeats = [verdict.judge(stages, objective) for stages in found.repeats if stages]
    tipping = verdict.spread(repeat.tipping_rate for repeat in repeats)
    is_limited = verdict.is_generator_limited(repeats)  # a prediction would be a capacity figure too
    return {
        "repeats": repeats,
        "says": verdict.sentence(repeats, objective),
        "is_generator_limited": is_limited,
        "fits": [] if is_limited else scaling.fits(found.stages, objective, tipping.median if tipping else None),
    }


def _checked(shape: Soak | Spike, found: Found, objective: Objective) -> dict[str, Any]:
    """What the checks of a soak or a spike say; nothing tips over there."""
    faults = list(filter(None, (verdict.generator_fault(stage, objective) for stage in found.stages)))
    why, limit = (faults[0], "generator") if faults else ("", "none")
    checks = shape.checks(found, objective)
    failed = [f"{check.name}: {check.says}" for check in checks if not check.is_passed]
    return {
        "repeats": [Repeat(found.stages, None, None, why, limit)],
        "says": f"{shape}: " + (f"FAILED: {'; '.join(failed)}." if failed else f"all {len(checks)} checks passed."),
        "is_generator_limited": bool(faults),
        "checks": checks,
    }


def _options(test: LoadTest, found: Found) -> Options:
    load, target = test.load, test.target
    workers = {"CAUSEWAY_WORKERS": str(target.workers)} if target.workers > 1 else {}
    return Options(
        url=found.url,
        model=None if target.url else found.model,
        settings={**workers, **target.settings},
        shape=type(test.shape).__name__.lower(),
        arrivals="constant" if load.is_constant else "poisson",
        mix={kind.name: kind.weight for kind in load.kinds},
        rows={kind.name: kind.rows for kind in load.kinds},
        stage_s=found.stages[0].seconds,
        warm_up_s=test.shape.warm_up_s,
        seed=load.seed,
        repeats=len(found.repeats),
        generators=load.generators,
        deadline_ms=load.deadline_ms,
        connections=load.connections,
        command=test.command,
    )


def _generator_us(stages: Sequence[Stage]) -> float | None:
    """CPU of all generators for a request that went out."""
    sent = sum(stage.sent for stage in stages)
    return 1e6 * sum(stage.usage.generator * stage.seconds for stage in stages) / sent if sent else None
