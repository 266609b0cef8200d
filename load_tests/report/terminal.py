"""What stands in the terminal after a load test: the sentence, and a table that fits."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from load_tests.comparison import Comparison
from load_tests.report import tables
from load_tests.result import Result


def terminal(result: Result, console: Console) -> None:
    """Prints the stages of the repeat that the sentence is about, the checks, and the sentence.

    It is red where the generator was the limit.
    """
    console.print(_table(tables.stages_in_short(result)))
    for check in result.checks:
        word, style = ("passed", "green") if check.is_passed else ("FAILED", "bold red")
        console.print(Text.assemble((word, style), f" {check.name}: {check.says}"))
    console.print(Text(result.says, "bold red" if result.is_generator_limited else "bold"))


def terminal_comparison(compared: Comparison, console: Console) -> None:
    """Prints the figures beside each other, the warnings in red, and the differences in words."""
    console.print(_table(tables.overlays(compared)))
    for warning in compared.warnings:
        console.print(Text(warning, "bold red"))
    for difference in compared.differences:
        console.print(Text(difference.says))


def _table(shown: tables.Table) -> Table:
    table = Table(box=None, header_style="bold", collapse_padding=True, pad_edge=False)
    for place, head in enumerate(shown.heads):
        table.add_column(Text(head), justify="left" if place in shown.texts else "right")
    for row in shown.rows:
        table.add_row(*map(Text, row))
    return table
