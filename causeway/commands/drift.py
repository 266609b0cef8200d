"""`causeway drift`: what the traffic looks like beside what a version learnt from."""

from __future__ import annotations

import math
import time

import click

from causeway import operations, store
from causeway.console import Duration, as_json, console, print_json, table
from causeway.drift.comparison import ColumnComparison, Comparison, Statistic
from causeway.drift.reference import Reference
from causeway.drift.statistics import PSI_LARGE, PSI_MODERATE
from causeway.monitoring.database import reading
from causeway.monitoring.drift_report import DriftReport, iso, report
from causeway.monitoring.place import where
from causeway.operations import Operations
from causeway.settings import Settings

NUMBERS = {"PSI", "KS", "mean", "then", "unseen", "refused", "windows"}
"""Columns of tables."""


@click.command()
@click.option("--since", type=Duration(), default="1d", show_default=True, help="How far back.")
@click.option("--until", type=Duration(), default=None, help="Up to how long ago; by default up to now.")
@click.option("--version", "tag", default=None, help="A model tag; by default the champion.")
@click.option("--skew", "is_skew", is_flag=True, help="All traffic of that time beside the rows it learnt from.")
@as_json
@click.pass_obj
def drift(
    deployment: Operations, since: float, until: float | None, tag: str | None, is_skew: bool, is_json: bool
) -> None:
    """Which features have drifted, since when, and how much.

    First the alarms of that time, then the last complete window beside what the version was tested on: each statistic,
    and the threshold that was calibrated when the version was trained.
    """
    settings = Settings.from_env()
    tag = operations.found(tag or deployment.status().state.champion)
    reference = Reference.from_json(store.find(tag).read("reference.json"))
    now = time.time()
    begun, ended = now - since, now - (until or 0)
    with reading(where(settings, deployment.file.folder).database_url) as connection:
        told = report(
            connection,
            tag,
            reference,
            n_rows=settings.drift_rows,
            seconds=settings.drift_s,
            since=begun,
            until=ended,
        )
    if is_json:
        print_json(told.to_dict())
    elif is_skew and told.skew is not None:
        console().print(f"{told.model_version}: {told.skew.rows} rows beside those that it learnt from.")
        _table(told.skew)
    else:
        _show(told)


def _show(told: DriftReport) -> None:
    terminal = console()
    if told.latest is None:
        open_rows = 0 if told.whole is None else told.whole.rows
        terminal.print(
            f"{told.model_version}: no window was completed in this time; {open_rows} rows wait in open ones."
        )
        return
    last = told.windows[-1]
    if told.latest.rate is None:
        terminal.print(f"{told.model_version} was saved without thresholds: nothing can alarm.")
    else:
        among = f"one window in {1 / told.latest.rate:.0f} or fewer alarms where nothing has changed"
        terminal.print(f"{told.model_version}: {len(told.windows)} windows; {among}.")
    alarms = table("alarm", "from", "to", "windows", "", numbers=NUMBERS)
    for alarm in told.alarms:
        is_over = "over" if alarm.is_over else "goes on"
        alarms.add_row(alarm.column, iso(alarm.opened), iso(alarm.closed), str(alarm.windows), is_over)
    terminal.print(alarms if told.alarms else "No alarms in this time.")
    terminal.print(f"The last window: {last.window.rows} rows from {iso(last.opened)} to {iso(last.closed)}.")
    _table(told.latest)


def _table(comparison: Comparison) -> None:
    shown = table("column", "", "PSI", "KS", "mean", "then", "unseen", "refused", "now", "reference", numbers=NUMBERS)
    for column in sorted(comparison.columns, key=lambda column: not column.is_drifted):
        shown.add_row(*_cells(column), style="red" if column.is_drifted else None)
    terminal = console()
    terminal.print(shown)
    terminal.print(f"By rule of thumb a PSI above {PSI_MODERATE} is a moderate shift, above {PSI_LARGE} a large one.")


def _cells(column: ColumnComparison) -> tuple[str, ...]:
    reference, now = column.bars()
    return (
        column.name,
        f"ALARM: {', '.join(column.alarms)}" if column.is_drifted else "",
        *(_statistic(column.statistics[name], most) for name, most in (("psi", math.inf), ("ks", 1.0))),
        "" if column.mean is None else f"{column.mean:.4g}",
        "" if column.reference_mean is None else f"{column.reference_mean:.4g}",
        f"{column.unseen:.1%}",
        f"{column.missing + column.out_of_range:.1%}",
        now,
        reference,
    )


def _statistic(statistic: Statistic, most: float) -> str:
    """Its value over its threshold; without one where it cannot be exceeded, as with KS of hours in a short window."""
    if statistic.value is None:
        return ""
    is_told = statistic.threshold is not None and statistic.threshold < most
    return f"{statistic.value:.3g}" + (f" / {statistic.threshold:.3g}" if is_told else "")
