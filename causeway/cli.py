"""`causeway ...`: what is deployed, and changing it, on the machine that serves; `python -m causeway` is the same.

Exit codes: 0 done; 1 refused, failed or undone; 2 the command line means nothing; 3 a rollout went back.
"""

from __future__ import annotations

import dataclasses
import getpass
import importlib
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click
import msgspec
from rich.console import Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar

from causeway import console, errors, figures, state
from causeway.console import Duration, Number, as_json, print_json
from causeway.judge import Limits
from causeway.operations import By, Done, Listed, Operations, described
from causeway.rollout import Plan, Progress, Rollout, Verdict
from causeway.settings import Settings
from causeway.state import ROLES, SHARED, Role
from causeway.state_file import Change

Read = TypeVar("Read")

DEFAULT_URL = "http://127.0.0.1:3000"
WENT_BACK = 3

NUMBERS = {"revision", "share", "age", "AP", "MB", "answered", "champion", "canary", "allowed"}
"""Columns of tables."""

table = partial(console.table, numbers=NUMBERS)


class Steps(click.ParamType[tuple[float, ...]]):
    """Percents that grow, as `1,5,25,50,100`."""

    name = "percents"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The percents."""
        steps: tuple[float, ...] = value if isinstance(value, tuple) else ()
        with suppress(ValueError):
            steps = steps or tuple(float(step) for step in str(value).split(","))
        if not steps or not all(low < high <= 100 for low, high in pairwise((0.0, *steps))):
            self.fail(f"{value!r}: percents that grow, such as 1,5,25,50,100", param, ctx)
        return steps


class Commands(click.Group):
    """Commands whose refusals are one sentence, and exit code 1."""

    LATE = ("drift", "experiment", "log", "optimise", "quality")
    """Those in `causeway.commands`, which are imported when asked for: a rollback has no use for SQLAlchemy."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return sorted([*super().list_commands(ctx), *self.LATE])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name in self.LATE:
            command: click.Command = getattr(importlib.import_module(f"causeway.commands.{cmd_name}"), cmd_name)
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command."""
        try:
            return super().invoke(ctx)
        except errors.CausewayError as exc:
            click.echo(f"causeway: {exc.message}", err=True)
        except KeyboardInterrupt:
            click.echo("causeway: interrupted; a change that was under way was undone", err=True)
        raise click.exceptions.Exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.pass_context
def main(ctx: click.Context) -> None:
    """Which model versions answer, changing that without a restart, and how they do.

    Works on the state file, the model store and the prediction log of this machine: CAUSEWAY_MODEL,
    CAUSEWAY_STATE_FILE, CAUSEWAY_DATABASE_URL and BENTOML_HOME mean what they mean to the service.
    """
    signal.signal(signal.SIGTERM, _interrupt)
    ctx.obj = Operations(Settings.from_env())


url = click.option(
    "--url", envvar="CAUSEWAY_URL", default=DEFAULT_URL, show_default=True, help="The service, for its /metrics."
)
Share = Number(0, 100, min_open=True)


def change(name: str, *arguments: Callable[[Any], Any]) -> Callable[[Callable[..., Done]], click.Command]:
    """A command that changes the deployment and says what came of it."""

    def decorate(function: Callable[..., Done]) -> click.Command:
        def command(*, who: str, why: str, is_json: bool, **given: Any) -> None:
            done = function(click.get_current_context().obj, by=By(_text(who), _text(why), _began()), **given)
            _say(done, is_json)

        command.__doc__ = function.__doc__
        who = click.option("--who", default=whoami, help="For the audit log; by default user@host.")
        why = click.option("--why", default="", help="For the audit log.")
        decorated: Any = command
        for option in (as_json, why, who, *reversed(arguments)):
            decorated = option(decorated)
        return main.command(name)(decorated)

    return decorate


def _text(given: str) -> str:
    """What was typed, without bytes that are no text."""
    return given.encode(errors="replace").decode()


def _began() -> datetime:
    """When this process was started, before it knew what is deployed (proc(5)); where that is unknown, now."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(") ")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
        return state.now() - timedelta(seconds=age_s)
    except (OSError, AttributeError):
        return state.now()


def whoami() -> str:
    """user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


tag = click.argument("tag")


@change("promote", tag)
def promote(operations: Operations, tag: str, by: By) -> Done:
    """Make TAG the champion: it answers what no other role does."""
    return operations.promote(tag, by)


@change(
    "rollback",
    click.argument("tag", required=False),
    click.option(
        "--force",
        "is_forced",
        is_flag=True,
        help="Though it takes less, or a worker hangs.",
    ),
)
def rollback(operations: Operations, tag: str | None, is_forced: bool, by: By) -> Done:
    """Go back to the champion before this one, or to TAG. That has to be an earlier champion."""
    return operations.rollback(tag, by, is_forced=is_forced)


@change(
    "canary",
    tag,
    click.option("--share", type=Share, required=True, help="Percent of the requests."),
    click.option("--lease", type=Duration(), default=None, help="After this time it ends by itself, as 30m."),
)
def canary(operations: Operations, tag: str, share: float, lease: float | None, by: By) -> Done:
    """Give TAG a share of the requests, to be grown. `rollout` does this by itself."""
    until = None if lease is None else state.now() + timedelta(seconds=lease)
    return operations.canary(tag, share, by, until=until)


@change("challenger", tag, click.option("--share", type=Share, required=True, help="Percent of the requests."))
def challenger(operations: Operations, tag: str, share: float, by: By) -> Done:
    """Give TAG a fixed share of the requests, for an A/B comparison."""
    return operations.challenger(tag, share, by)


@change("shadow", tag)
def shadow(operations: Operations, tag: str, by: By) -> Done:
    """Have TAG score what the champion answers, unseen. Its predictions are counted and never returned."""
    return operations.shadow(tag, by)


@change("stop", click.argument("role", type=click.Choice([role for role in ROLES if role != "champion"])))
def stop(operations: Operations, role: Role, by: By) -> Done:
    """End the canary, the challenger or the shadow. The champion has its requests."""
    return operations.stop(role, by)


@main.command()
@as_json
@click.pass_obj
def status(operations: Operations, is_json: bool) -> None:
    """What is deployed, and how far every worker is."""
    found = operations.status()
    told = described(found)
    if is_json:
        print_json(told)
        return
    source = {
        "file": found.path,
        "workers": "what the workers serve",
        "history": "the audit log",
        "settings": "the settings; there is no state file",
    }
    terminal = console.console()
    terminal.print(f"Revision {told['revision']}, by {source[found.source]}")
    if found.problem:
        terminal.print(f"{found.path} makes no sense: {found.problem}", style="red")
    roles = table("role", "version", "share", "until")
    for role, given in told["roles"].items():
        share = "" if given.get("share") is None else f"{given['share']:g} %"
        roles.add_row(role, given["tag"], share, given.get("until", ""))
    terminal.print(roles)
    if told["previous"]:
        terminal.print(f"A rollback goes back to {told['previous'][-1]}")
    workers = table("worker", "serves", "revision", "", "problem")
    for worker in told["workers"]:
        is_current = "current" if worker["is_current"] else "behind"
        champion, revision = worker["champion"] or "none", str(worker["revision"])
        workers.add_row(str(worker["pid"]), champion, revision, is_current, worker["problem"] or "")
    terminal.print(workers if told["workers"] else _nobody(found.path))


@main.command()
@as_json
@url
@click.pass_obj
def versions(operations: Operations, is_json: bool, url: str) -> None:
    """What is in the store, with roles, quality and use.

    AP: average precision on the held-out period. Answered: requests, as the service at --url counts them since it was
    started; ? where none answers.
    """
    answered: dict[str, int] | None = None
    with suppress(OSError):
        answered = _metrics(url, figures.requests_by_version)
    listed = [
        dataclasses.replace(version, requests=None if answered is None else answered.get(version.tag, 0))
        for version in operations.versions()
    ]
    if is_json:
        print_json(listed)
        return
    shown = table("version", "made", "role", "share", "age", "AP", "MB", "answered")
    for version in listed:
        shown.add_row(*_cells(version))
    console.console().print(shown)


@main.command()
@as_json
@click.option("--last", type=click.IntRange(1), default=None, help="Only so many.")
@click.pass_obj
def history(operations: Operations, is_json: bool, last: int | None) -> None:
    """Who changed what, when, and why."""
    changes = operations.history()[-last:] if last else operations.history()
    if is_json:
        print_json(changes)
        return
    if not changes:
        click.echo("Nothing was changed yet.")
        return
    shown = table("revision", "when", "who", "what", "from", "to", "why")
    for made in changes:
        before, after = _differing(made)
        when = made.time.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        shown.add_row(str(made.revision), when, made.who, made.action, before, after, made.why)
    console.console().print(shown)


def _limit(name: str, default: float, text: str) -> Callable[[Any], Any]:
    return click.option(name, type=Number(0), default=default, show_default=True, help=text)


@main.command()
@click.argument("tag")
@click.option("--steps", type=Steps(), default="1,5,25,50,100", show_default=True, help="Percents.")
@click.option("--hold", type=Duration(), default="60s", show_default=True, help="Time at each step, at least.")
@_limit("--min-requests", Plan.min_requests, "The canary's answers at each step, at least.")
@_limit("--max-errors", Limits.errors, "Share of answers 500 and 504 above the champion's.")
@_limit("--max-refusals", Limits.refusals, "Share of answers 503 above the champion's.")
@_limit("--max-p99-ratio", Limits.p99_ratio, "p99 latency over the champion's.")
@_limit("--max-nan", Limits.not_finite, "Share of predictions that are NaN.")
@_limit("--max-psi", Limits.psi, "Shift of the scores (PSI), above what chance gives.")
@click.option("--who", default=whoami, help="For the audit log; by default user@host.")
@click.option("--why", default="", help="For the audit log.")
@url
@as_json
@click.pass_obj
def rollout(
    operations: Operations,
    tag: str,
    steps: tuple[float, ...],
    hold: float,
    min_requests: float,
    max_errors: float,
    max_refusals: float,
    max_p99_ratio: float,
    max_nan: float,
    max_psi: float,
    who: str,
    why: str,
    url: str,
    is_json: bool,
) -> None:
    """Give TAG a growing share, and promote it or go back.

    At each step it is compared with the champion, by what the service at --url counts. Exit code 0: promoted. 3: went
    back, and why is printed. Where this command dies, the canary ends within a minute.
    """
    limits = Limits(max_errors, max_refusals, max_p99_ratio, not_finite=max_nan, psi=max_psi)
    plan = Plan(steps, hold, min_requests, limits)
    try:
        walk = Rollout(operations, tag, plan, By(_text(who), _text(why)), lambda: _metrics(url, figures.read))
        if is_json:
            verdict = walk.run()
        elif sys.stdout.isatty():
            with Live(console=console.console(), refresh_per_second=4) as live:
                verdict = walk.run(lambda progress: live.update(_progress(progress, plan)))
        else:
            verdict = walk.run(lambda progress: click.echo(_line(progress, plan)))
    except OSError as exc:
        raise errors.CausewayError(f"a rollout compares what {url}/metrics says, and it says nothing: {exc}") from exc
    except KeyboardInterrupt:
        verdict = Verdict(False, "it was interrupted")
    if is_json:
        walked = [dataclasses.asdict(step) for step in verdict.steps]
        print_json({"promoted": verdict.is_promoted, "reason": verdict.reason, "steps": walked})
    else:
        click.echo(f"Promoted: {verdict.reason}." if verdict.is_promoted else f"Went back: {verdict.reason}.")
    sys.exit(0 if verdict.is_promoted else WENT_BACK)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _metrics(url: str, read: Callable[[str], Read]) -> Read:
    """What `read` finds in the service's /metrics. Raises `OSError` where nothing is there that it understands."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/metrics", timeout=5) as response:
            return read(response.read().decode())
    except (OSError, ValueError, HTTPException) as exc:
        raise OSError(getattr(exc, "reason", exc)) from exc


def _nobody(path: str) -> str:
    if os.access(Path(path).parent, os.W_OK) or not Path(path).exists():
        return f"No worker that follows {path} is running."
    return f"Workers cannot report beside {path}, which is read-only: see GET /health."


def _say(done: Done, is_json: bool) -> None:
    if is_json:
        print_json(
            {"revision": done.change.revision, "action": done.change.action, "workers": done.workers}
            | {"seconds": round(done.seconds, 3), "roles": msgspec.to_builtins(done.change.after.roles)}
            | ({} if done.unserved is None else {"unserved": done.unserved})
        )
        return
    after = done.change.after
    shares = {role: "" if role in SHARED else f" {100 - after.shared:g} %" for role in after.roles}
    shares["shadow"] = ""
    click.echo("Now " + ", ".join(f"{role} {given}{shares[role]}" for role, given in after.roles.items()))
    workers = "1 worker serves" if done.workers == 1 else f"{done.workers} workers serve"
    if done.unserved is not None:
        click.echo(f"{workers} revision {after.revision}, but {done.unserved}", err=True)
    elif done.workers:
        click.echo(f"{workers} revision {after.revision}, after {done.seconds:.2f} s")
    else:
        click.echo(f"Revision {after.revision}. {_nobody(str(click.get_current_context().obj.file.path))}")


def _line(progress: Progress, plan: Plan) -> str:
    compared = "; ".join(f"{c.name} {c.canary:.4g} ({c.champion:.4g})" for c in progress.compared)
    return f"{_head(progress, plan)}: {compared}"


def _head(progress: Progress, plan: Plan) -> str:
    step = f"Step {progress.step + 1} of {len(plan.steps)}, {progress.share:g} %"
    return f"{step}, {progress.held_s:.0f} of {plan.hold_s:g} s, {progress.requests} requests"


def _progress(progress: Progress, plan: Plan) -> Group:
    compared = table("", "champion", "canary", "allowed")
    for comparison in progress.compared:
        values = (f"{value:.4g}" for value in (comparison.champion, comparison.canary, comparison.limit))
        compared.add_row(comparison.name, *values, style="red" if comparison.is_worse else None)
    bar = ProgressBar(plan.hold_s, min(progress.held_s, plan.hold_s), width=60)
    return Group(_head(progress, plan), Padding(bar, (0, 0, 1, 0)), compared)


def _cells(version: Listed) -> list[str]:
    return [
        version.tag,
        version.made,
        version.role or "",
        "" if version.share is None else f"{version.share:g} %",
        "" if version.created is None else _age(version.created),
        "" if version.average_precision is None else f"{version.average_precision:.4f}",
        f"{version.n_bytes / 1e6:.1f}",
        "?" if version.requests is None else str(version.requests),
    ]


def _age(created: datetime) -> str:
    seconds = (state.now() - created).total_seconds()
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _differing(change: Change) -> tuple[str, str]:
    """What roles had before and after, where these differ."""
    before, after = change.before.roles, change.after.roles
    roles = [role for role in ROLES if before.get(role) != after.get(role)]
    one, other = ("\n".join(f"{role} {states.get(role, '-')}" for role in roles) for states in (before, after))
    return one, other
