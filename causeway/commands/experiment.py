"""`causeway experiment`: a challenger or a canary beside the champion, and what may be concluded."""

from __future__ import annotations

import time
from datetime import datetime

import click
from rich.table import Table

from causeway import state
from causeway.console import Duration, as_json, console, print_json, table
from causeway.experiments import period
from causeway.experiments.measure import ALPHA, Measure
from causeway.experiments.period import Compared
from causeway.experiments.report import Report, report
from causeway.experiments.verdict import LABELS, SCORES, Words, percent
from causeway.monitoring.database import reading
from causeway.monitoring.place import where
from causeway.operations import Operations
from causeway.settings import Settings

NUMBERS = {"requests", "rows", "units", "labelled", "conversions"}
"""Columns of the table."""


@click.command()
@click.argument("role", type=click.Choice(["challenger", "canary"]), required=False)
@click.option("--since", type=Duration(), default=None, help="How far back; by default as long as the shares hold.")
@as_json
@click.pass_obj
def experiment(deployment: Operations, role: Compared | None, since: float | None, is_json: bool) -> None:
    """Whether challenger or canary differ from the champion.

    Its labels and scores are compared over the last time in which the same versions had the same shares. Look as often
    as you like: of experiments without a difference, at most 5 % ever show one.
    """
    compared = period.latest(deployment.history(), deployment.status().state, role, state.now())
    asked_since = 0.0 if since is None else time.time() - since
    with reading(where(Settings.from_env(), deployment.file.folder).database_url) as connection:
        told = report(connection, compared, asked_since)
    if is_json:
        print_json(told.to_dict())
    else:
        _show(told)


def _show(told: Report) -> None:
    terminal = console()
    if told.since is not None:
        ended = told.period.ended
        lasted = "" if ended is None else f" to {_when(ended)}"
        terminal.print(f"Since {_when(told.since)}{lasted}; intervals hold at every look, each for {1 - ALPHA / 2:.1%}")
    terminal.print(_variants(told))
    for words, measure in ((LABELS, told.labels), (SCORES, told.scores)):
        if measure.difference is not None:
            terminal.print(f"Difference in {words.mean}: {words.told(measure.difference, words.of_a_difference)}")
    ratio = told.scores.ratio
    if ratio.observed is not None:
        share = f"{percent(ratio.observed)} of the units, {percent(ratio.expected)} expected"
        terminal.print(f"The {told.period.role} has {share} (always-valid p = {ratio.p_value:.2g})")
    click.echo(told.verdict)  # rich would take `:a:` for an emoji


def _variants(told: Report) -> Table:
    shown = table(
        "variant", "version", "requests", "rows", "units", "mean score", "labelled", "conversions", "rate",
        numbers=NUMBERS,
    )  # fmt: skip
    period, scores, labels = told.period, told.scores, told.labels
    for side, (role, tag) in enumerate((("champion", period.champion), (period.role, period.variant))):
        shown.add_row(
            role,
            tag,
            *(str(counts[side]) for counts in (scores.requests, scores.rows, scores.units)),
            _mean(scores, SCORES, side),
            str(labels.rows[side]),
            f"{labels.total[side]:g}",
            _mean(labels, LABELS, side),
        )
    return shown


def _mean(measure: Measure, words: Words, side: int) -> str:
    return "" if measure.means is None else words.told(measure.means[side], words.of_a_mean)


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
