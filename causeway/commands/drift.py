"""`causeway drift`: what the traffic looks like beside what a version learnt from."""

from __future__ import annotations

import time

import click

from causeway import operations, store
from causeway.console import Duration, as_json, console, print_json, table
from causeway.drift.comparison import ColumnComparison, Statistic
from causeway.drift.reference import Reference
from causeway.drift.statistics import PSI_LARGE, PSI_MODERATE
from causeway.monitoring.database import connect
from causeway.monitoring.drift_report import DriftReport, iso, report
from causeway.monitoring.place import where
from causeway.operations import Operations
from causeway.settings import Settings

NUMBERS = {"PSI", "KS", "worst bin", "mean", "then", "unseen", "refused"}
"""Columns of the table."""


@click.command()
@click.option("--since", type=Duration(), default="1d", show_default=True, help="How far back.")
@click.option("--version", "tag", default=None, help="A model tag; by default the champion.")
@as_json
@click.pass_obj
def drift(deployment: Operations, since: float, tag: str | None, is_json: bool) -> None:
    """Which features have drifted, since when, and how much.

    A statistic above its threshold is an alarm. Thresholds were calibrated when the version was trained.
    """
    settings = Settings.from_env()
    tag = operations.found(tag or deployment.status().state.champion)
    reference = Reference.from_json(store.find(tag).read("reference.json"))
    engine = connect(where(settings, deployment.file.folder).database_url)
    with engine.connect() as connection:
        told = report(connection, tag, reference, n_rows=settings.drift_rows, opened_after=time.time() - since)
    engine.dispose()
    if is_json:
        print_json(told.to_dict())
    else:
        _show(told)


def _show(told: DriftReport) -> None:
    terminal = console()
    if told.latest is None:
        terminal.print(f"{told.model_version}: no window of traffic was closed in this time.")
        return
    last = told.windows[-1]
    terminal.print(f"{told.model_version}, {last.window.rows} rows from {iso(last.opened)} to {iso(last.closed)}")
    if told.latest.rate is None:
        terminal.print("This version was saved without thresholds: nothing can alarm.")
    else:
        terminal.print(f"Without drift one window in {1 / told.latest.rate:.0f} alarms; windows: {len(told.windows)}")
    shown = table(
        "column", "drifted since", "PSI", "KS", "worst bin", "mean", "then", "unseen", "refused", "now", "reference",
        numbers=NUMBERS,
    )  # fmt: skip
    for column in sorted(told.latest.columns, key=lambda column: not column.is_drifted):
        opened = told.drifted_since.get(column.name)
        shown.add_row(*_cells(column, opened), style="red" if column.is_drifted else None)
    terminal.print(shown)
    terminal.print(f"By rule of thumb a PSI above {PSI_MODERATE} is a moderate shift, above {PSI_LARGE} a large one.")


def _cells(column: ColumnComparison, opened: float | None) -> tuple[str, ...]:
    reference, now = column.bars()
    return (
        column.name,
        "" if opened is None else iso(opened),
        *(_statistic(column.statistics.get(name)) for name in ("psi", "ks", "bin_deviance")),
        "" if column.mean is None else f"{column.mean:.4g}",
        f"{column.reference_mean:.4g}",
        f"{column.unseen:.1%}",
        f"{column.missing + column.out_of_range:.1%}",
        now,
        reference,
    )


def _statistic(statistic: Statistic | None) -> str:
    """Its value over its threshold."""
    if statistic is None or statistic.value is None:
        return ""
    return f"{statistic.value:.3g}" + ("" if statistic.threshold is None else f" / {statistic.threshold:.3g}")
