"""Runs the benchmark: `python -m load_tests.bench`, with `--quick`, `--only dear,poison`, `--write`, and others."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from load_tests.bench import report, wrk
from load_tests.bench.bench import Bench, say
from load_tests.bench.peers import PEERS, Peer
from load_tests.bench.plan import FULL, QUICK, Plan
from load_tests.bench.result import result
from load_tests.bench.scenarios import NAMES, scenario
from load_tests.machine import allow_open_files, on

T = TypeVar("T")
SCENARIOS = {name: name for name in NAMES}
OPEN_FILES = 16_384
"""More than there are connections in any scenario."""
CONTESTANTS = {peer.name: peer for peer in PEERS}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line; the exit code is 1 where a contestant failed or wrk is missing."""
    parser = _parser()
    args = parser.parse_args(argv)
    is_whole = not args.quick and args.only == NAMES and args.peers == PEERS
    if args.write and not is_whole:
        parser.error("--write belongs to a whole run: the README's figures come from one go")
    allow_open_files(OPEN_FILES)
    try:
        wrk_version = wrk.version()
    except FileNotFoundError as exc:
        say(str(exc))
        return 1
    told = go(QUICK if args.quick else FULL, args.only, args.peers, home=args.home, wrk_version=wrk_version)
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


def go(
    plan: Plan, names: Sequence[str], peers: Sequence[Peer], *, home: Path | None, wrk_version: str
) -> dict[str, Any]:
    """One go over the scenarios, with the models in BentoML's `home`: everything that the result file holds."""
    begun, at = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with tempfile.TemporaryDirectory(prefix="causeway-bench-") as scratch:
        os.environ["BENTOML_HOME"] = str(
            home.resolve() if home else Path(scratch, "home")
        )  # before anything imports bentoml
        with Bench(plan, Path(scratch), peers, say=say) as bench, on(bench.cores.generator):
            scenarios = {}
            for name in names:
                bench.scenario = name
                scenarios[name] = scenario(name).run(bench)
    return result(bench, scenarios, at=at, seconds=time.monotonic() - begun, wrk_version=wrk_version)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m load_tests.bench", description="Causeway beside its peers.")
    parser.add_argument("--quick", action="store_true", help="a smoke run: everything once, no figure means anything")
    parser.add_argument("--only", type=_some(SCENARIOS), default=NAMES, help=f"some of: {','.join(NAMES)}")
    parser.add_argument("--peers", type=_some(CONTESTANTS), default=PEERS, help=f"some of: {','.join(CONTESTANTS)}")
    parser.add_argument("--output", type=Path, help="where the JSON goes (a whole run: load_tests/results/bench.json)")
    parser.add_argument("--home", type=Path, help="a BENTOML_HOME for the models, which stay there; none trained anew")
    parser.add_argument("--write", action="store_true", help="put the tables into README.md, between its markers")
    return parser


def _some(choices: Mapping[str, T]) -> Callable[[str], tuple[T, ...]]:
    """Reads names that are separated by commas; what they stand for, in the order of `choices`."""

    def read(text: str) -> tuple[T, ...]:
        unknown = set(text.split(",")) - set(choices)
        if unknown:
            raise argparse.ArgumentTypeError(f"there is no {', '.join(sorted(unknown))}, only {', '.join(choices)}")
        return tuple(choices[name] for name in choices if name in text.split(","))

    return read


if __name__ == "__main__":
    sys.exit(main())
