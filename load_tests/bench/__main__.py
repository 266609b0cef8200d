"""Runs the benchmark: `python -m load_tests.bench`, with `--quick`, `--only one_row,dear`, `--write`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from load_tests.bench import report, wrk
from load_tests.bench.bench import Bench, say
from load_tests.bench.machine import on
from load_tests.bench.plan import FULL, QUICK, Plan
from load_tests.bench.result import result
from load_tests.bench.scenarios import NAMES, scenario


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 1 where a contestant failed or wrk is missing."""
    parser = _parser()
    args = parser.parse_args(argv)
    is_whole = not args.quick and args.only == NAMES
    if args.write and not is_whole:
        parser.error("--write belongs to a whole run: the README's figures come from one go")
    try:
        wrk_version = wrk.version()
    except FileNotFoundError as exc:
        say(str(exc))
        return 1
    told = go(QUICK if args.quick else FULL, args.only, wrk_version)
    output = args.output or (report.RESULTS if is_whole else None)
    if output is not None:
        output.parent.mkdir(exist_ok=True)
        output.write_text(json.dumps(told, indent=1, allow_nan=False) + "\n")
        say(f"written: {output}")
    print(report.markdown(told))
    if args.write:
        report.write(told)
    for failure in told["failures"]:
        say("FAILED: {contestant} in {scenario}: {why}".format_map(failure))
    return 1 if told["failures"] else 0


def go(plan: Plan, names: Sequence[str], wrk_version: str) -> dict[str, Any]:
    """One go over the scenarios: everything that the result file holds."""
    begun, at = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with tempfile.TemporaryDirectory(prefix="causeway-bench-") as scratch:
        os.environ["BENTOML_HOME"] = str(Path(scratch, "home"))  # before anything imports bentoml
        with Bench(plan, Path(scratch), say=say) as bench, on(bench.cores.generator):
            scenarios = {}
            for name in names:
                bench.scenario = name
                scenarios[name] = scenario(name).run(bench)
    return result(bench, scenarios, at=at, seconds=time.monotonic() - begun, wrk_version=wrk_version)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.bench", description="Causeway beside its peers.")
    parser.add_argument("--quick", action="store_true", help="a smoke run: everything once, no figure means anything")
    parser.add_argument("--only", type=_names, default=NAMES, help=f"some of: {','.join(NAMES)}")
    parser.add_argument("--output", type=Path, help="where the JSON goes (a whole run: load_tests/results/bench.json)")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md, between its markers")
    return parser


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name for name in NAMES if name in text.split(","))
    unknown = set(text.split(",")) - set(NAMES)
    if unknown:
        raise argparse.ArgumentTypeError(f"no scenario {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
