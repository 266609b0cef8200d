"""`causeway optimise`: smaller and quicker variants of a version, each measured, kept where it earns its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from causeway import errors
from causeway.console import as_json, console, print_json


@click.command()
@click.argument("tag")
@click.option("--data", type=click.Path(path_type=Path), help="The table that it was trained on, if one was given.")
@click.option("--label", help="As train_and_save.py was told.")
@click.option("--time", help="The same.")
@click.option("--entity", help="The same.")
@click.option("--only", multiple=True, metavar="NAME", help="One variant, such as int8-static; may be repeated.")
@click.option("--dry-run", "is_dry_run", is_flag=True, help="Save nothing.")
@click.option("--plot", "picture", type=click.Path(path_type=Path, dir_okay=False), help="A PNG file to write.")
@as_json
def optimise(
    tag: str,
    data: Path | None,
    label: str | None,
    time: str | None,
    entity: str | None,
    only: tuple[str, ...],
    is_dry_run: bool,
    picture: Path | None,
    is_json: bool,
) -> None:
    """Make smaller and quicker variants, and keep those that pass.

    All are measured in turn on this machine, on one thread, on the rows that were held out when TAG was trained. One
    that loses at most 0.005 of average precision, stays calibrated, predicts the same alone as in company, and is
    quicker or smaller, is saved as a version. Of the others you are told what failed. Takes minutes.
    """
    if (data is None) != (label is None):
        raise click.UsageError("--data and --label belong together")
    if data is None and (time or entity):
        raise click.UsageError("--time and --entity are columns of --data")
    try:
        import models  # before ONNX Runtime's tools, which append a path with another package of that name
        from causeway.optimise import report
        from causeway.optimise.kinds import KINDS
        from causeway.optimise.parent import Parent
        from causeway.optimise.study import study
        from causeway.training import tables

        if picture is not None:
            from causeway.optimise.plot import plot
    except ImportError as exc:
        needed = "optimise needs the clone and what `make setup` installs there, and matplotlib for --plot"
        raise errors.CausewayError(f"{needed}: {exc}") from exc
    known = {kind.name: kind for kind in KINDS}
    if unknown := [name for name in only if name not in known]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(known)}", param_hint="--only")
    with _progress() as tell:
        tell("Loading the version")
        parent = Parent.find(tag)
        tell("Preparing the rows that it was trained on")
        family = models.family(parent.family)
        if data is None or label is None:
            rows = family.default_data(parent.seed)
        else:
            columns = {name: column for name, column in (("time", time), ("entity", entity)) if column is not None}
            rows = models.dataset(family, tables.read(data), label, data.name, **columns)
        parts = parent.split(rows)
        judged = study(parent, parts, [known[name] for name in only or known], tell, is_dry_run=is_dry_run)
    if picture is not None:
        plot(picture, parent.tag, judged)
    if is_json:
        print_json(report.to_dict(parent, parts, judged))
        return
    terminal = console()
    for part in report.shown(parent, parts, judged):
        terminal.print(part)


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Tells what is being done, on stderr: in a line that changes on a terminal, otherwise in a line each."""
    terminal = Console(stderr=True, markup=False, emoji=False, highlight=False)
    if not terminal.is_terminal:
        yield lambda what: click.echo(what, err=True)
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=terminal, transient=True) as progress:
        task = progress.add_task("")
        yield lambda what: progress.update(task, description=what)
