"""`causeway quality`: how good the versions that answer are, by the labels that came and before they come."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise

import click
import msgspec
import numpy as np
from sqlalchemy import Connection

from causeway import errors, store
from causeway.console import Duration, as_json, console, print_json, table
from causeway.monitoring import place
from causeway.monitoring.database import reading
from causeway.monitoring.drift_report import iso
from causeway.monitoring.outcomes import DAY_S, versions
from causeway.monitoring.quality_report import QualityReport, report
from causeway.operations import Operations
from causeway.quality.intervals import Interval
from causeway.quality.working import Working
from causeway.settings import Settings

FIGURES = {
    "positives": "share of positives",
    "average_precision": "AP",
    "auc_roc": "AUC ROC",
    "precision": "precision",
    "recall": "recall",
    "card_precision_at_100": "card P@100",
    "calibration_error": "calibration error",
    "brier_score": "Brier score",
}
NUMBERS = {"by labels", "estimated"}
"""Columns of the table."""


@click.command()
@click.option("--since", type=Duration(), default="7d", show_default=True, help="How far back.")
@click.option("--by", type=click.Choice(["day"]), default=None, help="Each day (UTC) on its own.")
@as_json
@click.pass_obj
def quality(deployment: Operations, since: float, by: str | None, is_json: bool) -> None:
    """How good the versions are that answered, with 95 % intervals.

    By labels: of rows whose label came as 0 or 1. Estimated: of rows that have none yet, from their scores alone; holds
    as long as rows with the same score are positive as often as at training.
    """
    now = time.time()
    begun = now - since
    with reading(place.where(Settings.from_env(), deployment.file.folder).database_url) as connection:
        spans = list(pairwise(_days(begun, now))) if by else [(begun, now)]
        told = [each for tag in versions(connection, begun) for each in _reports(connection, tag, spans)]
    if is_json:
        print_json([each.to_dict() for each in told])
    elif told:
        for each in told:
            _show(each)
    else:
        click.echo(f"Nothing was answered since {iso(begun)}.")


def _days(begun: float, ended: float) -> list[float]:
    """When the span begins and ends, and each midnight (UTC) in it."""
    return [begun, *np.arange(begun // DAY_S * DAY_S + DAY_S, ended, DAY_S).tolist(), ended]


def _reports(connection: Connection, tag: str, spans: list[Interval]) -> Iterator[QualityReport]:
    """Of those spans in which the version answered."""
    working = _working(tag)
    for begun, ended in spans:
        told = report(connection, tag, working, begun, ended)
        if told.quality.rows or told.unlabelled:
            yield told


def _working(tag: str) -> Working:
    """What training left with the version; nothing where it is not in the store any more, or cannot be read."""
    try:
        return Working.from_json(store.find(tag).read("evaluation.json"))
    except (errors.VersionNotFound, errors.VersionRefused, msgspec.DecodeError):
        return Working()


def _show(told: QualityReport) -> None:
    terminal = console()
    default = ", the default: training chose none" if told.working.chosen is None else ""
    terminal.print(f"{told.model_version}, {iso(told.since)} to {iso(told.until)}", style="bold")
    terminal.print(f"Working threshold {told.working.threshold:.4g}{default}")
    terminal.print(f"Rows with labels: {told.quality.rows}, positive: {told.quality.positives}")
    unknown = " (this version was saved without what an estimate needs)" if told.estimate is None else ""
    terminal.print(f"Rows without labels: {told.unlabelled}{unknown}")
    shown = table("", "by labels", "95 %", "estimated", "95 %", numbers=NUMBERS)
    metrics, estimates = told.metrics(), told.estimates()
    for name, title in FIGURES.items():
        by_labels = _cells(metrics.get(name), told.quality.intervals.get(name))
        low, expected, high = estimates.get(name, (0.0, None, 0.0))
        shown.add_row(title, *by_labels, *_cells(expected, (low, high)))
    terminal.print(shown)
    terminal.print()


def _cells(figure: float | None, interval: Interval | None) -> tuple[str, str]:
    """The figure, and its interval where it has one; nothing of a figure that is undefined."""
    if figure is None:
        return "", ""
    return f"{figure:.4f}", "" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"
