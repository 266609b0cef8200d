"""A version served on a device by the project's own server, under rising load from the open-loop generator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from load_tests.objective import Objective
from load_tests.options import ANSWERED, Load
from load_tests.ramp import Ramp
from load_tests.run import LoadTest, NothingMeasured, run
from load_tests.served import Target
from load_tests.stage import Stage
from load_tests.traffic import Kind
from load_tests.verdict import generator_fault

CONNECTIONS = 1024
OBJECTIVE = Objective(p99_ms=500)
"""As loose as it is, since some networks need a tenth of a second for a thousand rows on a CPU."""


def under_load(tag: str, device: str, rows: int, ramp: Ramp, seed: int, scratch: Path) -> list[dict[str, Any]]:
    """What became of each rate of `ramp`, with `rows` in each body, of the version `tag` in this process's store.

    Raises `load_tests.run.NothingMeasured` where it is not served to the end. `scratch` gets the server's log.
    """
    test = LoadTest(
        name=tag,
        target=Target(model=tag, settings={"CAUSEWAY_DEVICE": device}),
        load=Load(
            kinds=(Kind("all", rows, 1.0),),
            is_constant=False,
            seed=seed,
            generators=1,
            connections=CONNECTIONS,
            deadline_ms=ANSWERED * OBJECTIVE.p99_ms,
        ),
        shape=ramp,
        objective=OBJECTIVE,
        out=scratch,
        command="",
    )
    result = run(test, Console(stderr=True))
    if "ended_early" in result.circumstances:
        raise NothingMeasured(f"{tag} on {device}: {result.says}")
    return told(result.repeats[0].stages)


def told(stages: Sequence[Stage]) -> list[dict[str, Any]]:
    """Values for JSON: predictions a second offered and answered in time, the p99 of all that were answered."""
    return [
        {
            "offered_rows_per_s": stage.rate * stage.rows,
            "goodput_rows_per_s": stage.goodput_rows,
            "p99_ms": stage.latency.p99_ms if stage.latency else None,
            "errors": stage.errors,
            "generator_fault": generator_fault(stage, OBJECTIVE),
        }
        for stage in stages
    ]
