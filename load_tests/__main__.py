"""Loads a server until it tips over, and says where: `python -m load_tests`, or `make load-test`.

Exit code 1 where the server failed or a check did, 130 after an interrupt; what was measured before is written.
"""

from __future__ import annotations

import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import click
import msgspec
from rich.console import Console

from load_tests import options, report
from load_tests.comparison import compare
from load_tests.objective import Objective, milliseconds, share
from load_tests.options import Load, Read
from load_tests.result import Result
from load_tests.run import INTERRUPTED, LoadTest, NothingMeasured, run
from load_tests.served import Target
from load_tests.traffic import MANY_ROWS, MIX

DURATION, COUNTED = Read("duration", options.seconds), Read("duration", options.counted_seconds)
URL, RATE, RATES = Read("url", options.url), Read("rate", options.rate), Read("rates", options.rates)
MILLISECONDS, SHARE = Read("duration", milliseconds), Read("share", share)
POSITIVE = click.IntRange(min=1)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command(context_settings={"show_default": True, "help_option_names": ["-h", "--help"]})
@click.option("--url", type=URL, help="A running server, http://host:port; otherwise one is started from here.")
@click.option("--model", default="fraud:latest", envvar="CAUSEWAY_MODEL", help="The version that it serves.")
@click.option("--dear", is_flag=True, help="Serve a forest that takes milliseconds a row instead.")
@click.option("--workers", type=POSITIVE, default=1, help="Its worker processes.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="One of its settings, as CAUSEWAY_THREADS=2; repeatable.",
)
@click.option("--shape", type=click.Choice(options.SHAPES), default="ramp", help="What is offered when.")
@click.option(
    "--rates",
    type=RATES,
    show_default="auto",
    help="Of a ramp: requests/s as 100,200,400; auto finds the tipping point.",
)
@click.option("--repeats", type=POSITIVE, show_default="1", help="Of a ramp: how often all of it.")
@click.option("--rate", type=RATE, help="Of a soak or a spike: requests/s.")
@click.option("--for", "for_s", type=COUNTED, show_default="soak 10m, spike 10s", help="How long a soak or a spike is.")
@click.option(
    "--factor", type=click.FloatRange(min=1, min_open=True), show_default="4", help="Of a spike: times the rate."
)
@click.option("--stage", type=COUNTED, default="10s", help="How long a rate is offered and counts.")
@click.option("--warm-up", type=DURATION, default="2s", help="How long it is offered before, and does not count.")
@click.option("--p99", type=MILLISECONDS, default="100ms", help="Objective: of right answers, at most.")
@click.option("--errors", type=SHARE, default="0.1%", help="Objective: requests without one, at most.")
@click.option("--arrivals", type=click.Choice(("poisson", "constant")), default="poisson", help="How requests come.")
@click.option("--mix", default=MIX, help="Shares of the users: one, many, bulk (low priority).")
@click.option("--rows", type=POSITIVE, default=MANY_ROWS, help="In the requests of many and bulk.")
@click.option(
    "--deadline",
    type=Read("duration", options.deadline),
    show_default="0.9 of --p99",
    help="How long callers wait (X-Timeout-Ms); none: as long as the server chooses.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of rows, arrivals and the dear model.")
@click.option("--generators", type=POSITIVE, default=1, help="Processes that send.")
@click.option("--connections", type=POSITIVE, default=2048, help="Most that are open at once.")
@click.option("--name", show_default="the model or the URL", help="What plots call it.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), default="build/load-test", help="Folder of the report."
)
@click.option("--compare", "is_comparison", is_flag=True, help="Only lay the results in FILES over each other.")
@click.argument("files", nargs=-1, type=FILE)
def main(files: Sequence[Path], *, is_comparison: bool, out: Path, **given: Any) -> None:
    """Offers rising rates to a server, and says which it sustains, where it tips over, and why.

    Writes a report (report.html, report.png, stages.csv, result.json). A search takes some 25 stages a repeat, five
    minutes with stages of 10 s. Linux only. FILES are such results, with --compare.
    """
    console = Console()
    if is_comparison:
        _compare(files, out, console)
        return
    if files:
        raise click.UsageError("files are for --compare.")
    test = _asked(given, out)
    _make(out)
    try:
        result = run(test, console)
    except NothingMeasured as exc:
        raise click.ClickException(f"{exc}.") from exc
    _say_where(report.write(result, out), console)
    report.terminal(result, console)
    sys.exit(_exit_code(result))


def _asked(given: dict[str, Any], out: Path) -> LoadTest:
    """What the options ask for. Raises `click.UsageError` where they do not belong together."""
    target = _target(given)
    name = given["name"] or target.url or ("dear" if target.is_dear else target.model)
    kinds = options.kinds(given["mix"], given["rows"])
    return LoadTest(
        name=name,
        target=target,
        load=Load(
            kinds=kinds,
            is_constant=given["arrivals"] == "constant",
            seed=given["seed"],
            generators=given["generators"],
            connections=given["connections"],
            deadline_ms=options.deadline_ms(given["deadline"], given["p99"]),
        ),
        shape=options.shape(given),
        objective=Objective(given["p99"], given["errors"]),
        out=out,
        command=_command(sys.argv[1:]),
    )


def _command(arguments: Sequence[str]) -> str:
    """What measures the same again, wherever it is written to."""
    pairs = zip(["", *arguments], arguments, strict=False)
    kept = [argument for before, argument in pairs if "--out" not in (before, argument)]
    return shlex.join(["python", "-m", "load_tests", *kept])


def _target(given: dict[str, Any]) -> Target:
    settings = options.settings(given["settings"])
    if given["url"] is None:
        return Target(None, given["model"], given["dear"], given["workers"], settings)
    if given["dear"] or given["workers"] > 1 or settings:
        raise click.UsageError("--dear, --workers and --set are for a server that is started here, not for --url.")
    return Target(given["url"])


def _make(out: Path) -> None:
    """The folder, before anything is measured for it. Raises `click.BadParameter` where nothing can be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out):
            pass
    except OSError as exc:
        raise click.BadParameter(f"nothing can be written to {out}: {exc.strerror}.", param_hint="--out") from exc


def _compare(files: Sequence[Path], out: Path, console: Console) -> None:
    if len(files) < 2:
        raise click.UsageError("--compare needs two result.json or more.")
    results = [_loaded(file) for file in files]
    _make(out)
    results = _told_apart(results, files)
    comparison = compare(results)
    _say_where(report.write_comparison(results, comparison, out), console)
    report.terminal_comparison(comparison, console)


def _told_apart(results: Sequence[Result], files: Sequence[Path]) -> list[Result]:
    """With their files in the names where two have the same."""
    names = [result.name for result in results]
    return [
        msgspec.structs.replace(result, name=f"{result.name} ({file})") if names.count(result.name) > 1 else result
        for result, file in zip(results, files, strict=True)
    ]


def _loaded(file: Path) -> Result:
    try:
        return Result.load(file)
    except msgspec.DecodeError as exc:
        raise click.BadParameter(f"{file} is no result of a load test: {exc}.", param_hint="FILES") from exc


def _say_where(paths: Sequence[Path], console: Console) -> None:
    for path in paths:
        console.print(f"written: {path}", highlight=False, soft_wrap=True)


def _exit_code(result: Result) -> int:
    ended_early = result.circumstances.get("ended_early")
    if ended_early == INTERRUPTED:
        return 130
    return 1 if ended_early or not all(check.is_passed for check in result.checks) else 0


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):  # the server must end with it, in the background too
        signal.signal(number, signal.default_int_handler)
    main(prog_name="python -m load_tests")
