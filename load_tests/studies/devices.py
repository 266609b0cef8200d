"""CPU and GPU beside each other: engines by batch size, and what is served under rising load.

`python load_tests/studies/devices.py` takes about six minutes without a GPU, and more with one. It prints the README's
section; with `--write` it keeps results/devices.json and devices.png, too. Needs `make setup-neural`.

The versions are its own, in a store of their own. Engines are called in process, on one core and with one thread, each
for a while in every round; the largest batches take so long that there are few of them, and their p99 is nearly the
longest. What is served has all settings but the device as they are by default.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from causeway.contract import Array
from causeway.training.dataset import Split, split
from load_tests.circumstances import ROOT, circumstances
from load_tests.machine import Cores, cpu_name, on
from load_tests.ramp import Ramp
from load_tests.studies.device_engines import Call, by_hand, in_turns, opened
from load_tests.studies.device_load import OBJECTIVE, under_load
from load_tests.studies.device_report import CPU, GPU, NO_GPU, PICTURE, PUPIL, TEACHER, markdown, picture

RESULT = ROOT / "load_tests/results/devices.json"
SEED = 0
RATES: Mapping[int, tuple[float, ...]] = {
    1: (500, 1_000, 2_000, 4_000, 8_000),
    1_000: (4, 8, 16, 32, 64, 128, 256, 512),
}
"""Requests a second by rows in each."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and for how long."""

    families: tuple[str, ...] = ("gradient_boosting", "mlp", TEACHER, PUPIL)
    sizes: tuple[int, ...] = (1, 8, 64, 512, 4096)
    """Rows in a batch."""
    rounds: int = 7
    turn_s: float = 0.2
    served: tuple[str, ...] = (TEACHER, "mlp")
    rates: Mapping[int, tuple[float, ...]] = field(default_factory=lambda: RATES)
    stage_s: float = 3.0
    warm_up_s: float = 1.0


def main(argv: Sequence[str] | None = None) -> None:
    """Measures everything once, and prints it."""
    parser = argparse.ArgumentParser(description="CPU and GPU beside each other.")
    parser.add_argument("--write", action="store_true", help="keep the result and its picture")
    args = parser.parse_args(argv)
    from models.transactions import default_data

    with tempfile.TemporaryDirectory(prefix="causeway-devices-") as home:
        os.environ["BENTOML_HOME"] = home  # before anything imports bentoml
        result = measure(Plan(), split(default_data(SEED), seed=SEED), Path(home))
    if args.write:
        RESULT.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
        (ROOT / PICTURE).write_bytes(picture(result))
    print(markdown(result))


def measure(plan: Plan, parts: Split, scratch: Path) -> dict[str, Any]:
    """The result; versions of the plan's families stay in the store, and the servers' logs in `scratch`."""
    from load_tests.studies.device_versions import saved  # imports bentoml

    begun, at = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    devices = {CPU: {"name": cpu_name()}, GPU: gpu() or NO_GPU}
    there = [name for name, facts in devices.items() if facts != NO_GPU]
    _say(f"training {', '.join(plan.families)}")
    versions = saved(plan.families, parts, SEED)
    folders = {family: Path(version.path) for family, version in versions.items()}
    found = timed(plan, folders, there, parts.test.X)
    tags = {family: versions[family].tag for family in plan.served}
    return {
        "at": at,
        **circumstances(SEED),
        "devices": devices,
        "settings": {**asdict(plan), "p99_ms": OBJECTIVE.p99_ms},
        **found,
        "served": list(served(plan, tags, found["engines"], scratch)),
        "took_s": time.monotonic() - begun,
    }


def gpu() -> dict[str, str] | None:
    """The first GPU as its driver names it; None where there is no driver, or no GPU."""
    import pynvml  # type: ignore[import-untyped]

    try:
        pynvml.nvmlInit()
        device = pynvml.nvmlDeviceGetHandleByIndex(0)
        return {"name": pynvml.nvmlDeviceGetName(device), "driver": pynvml.nvmlSystemGetDriverVersion()}
    except pynvml.NVMLError:
        return None


def timed(plan: Plan, folders: Mapping[str, Path], devices: Sequence[str], X: Array) -> dict[str, Any]:
    """`engines`: by family, engine and batch size, what calls took. `left_out`: by engine and reason, whose they are.

    Beside torch on a GPU, the same networks are replayed by hand.
    """
    calls: dict[tuple[str, str], Call] = {}
    left_out: dict[str, list[str]] = defaultdict(list)
    for family, folder in folders.items():
        for device in devices:
            runtimes, others = opened(folder, device)
            calls |= {(family, runtime.name): runtime.run for runtime in runtimes}
            for name, why in others.items():
                left_out[f"{name}: {why}"].append(family)
    by_torch = [family for family, name in calls if name.startswith(f"torch {GPU}")]
    engines: dict[str, dict[str, dict[str, Any]]] = {family: defaultdict(dict) for family in folders}
    for size in plan.sizes:
        _say(f"batches of {size}: {len(calls)} engines in {plan.rounds} rounds")
        replayed = {
            (family, name): call for family in by_torch for name, call in by_hand(folders[family], GPU, size).items()
        }
        with on(Cores.divided().server):
            found = in_turns(calls | replayed, X, size, rounds=plan.rounds, turn_s=plan.turn_s)
        for (family, name), figures in found.items():
            engines[family][name][str(size)] = figures
    return {"engines": engines, "left_out": left_out}


def served(plan: Plan, tags: Mapping[str, str], engines: Mapping[str, Any], scratch: Path) -> Iterator[dict[str, Any]]:
    """What became of each rate, by family, device and rows in a body; on a GPU where it has an engine there."""
    for family, tag in tags.items():
        has_gpu = any(GPU in engine for engine in engines[family])
        for device, (rows, rates) in product((CPU, GPU) if has_gpu else (CPU,), plan.rates.items()):
            ramp = Ramp(rates, plan.stage_s, plan.warm_up_s, repeats=1)
            stages = under_load(tag, device, rows, ramp, SEED, scratch)
            yield {"family": family, "device": device, "rows": rows, "stages": stages}


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
