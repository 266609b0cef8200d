"""What the commands share: durations and numbers as options, tables, JSON."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

LONGEST_S = 100 * 86_400.0


class Duration(click.ParamType[float]):
    """Seconds, as `90`, `90s`, `15m`, `2h` or `7d`."""

    name = "duration"
    _UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}  # noqa: RUF012 - a table

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds."""
        if isinstance(value, float):
            return value
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd]?)", str(value))
        seconds = float(found[1]) * self._UNITS[found[2]] if found else 0.0
        if not 0 < seconds <= LONGEST_S:
            self.fail(f"{value!r} is no duration of at most 100 days; write 90s, 15m, 2h or 7d", param, ctx)
        return seconds


class Number(click.FloatRange):
    """A number in a range: not NaN, with which every comparison would come out well."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number."""
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value!r} is no number", param, ctx)
        return number


as_json = click.option("--json", "is_json", is_flag=True, help="For programs.")


def table(*columns: str, numbers: Collection[str] = ()) -> Table:
    """A table without lines; the columns that are `numbers` stand to the right."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold", justify="right" if column in numbers else "left")
    return made


def console() -> Console:
    """Piped, lines are as long as they are; what users wrote is no markup."""
    return Console(width=None if sys.stdout.isatty() else 200, markup=False, emoji=False, highlight=False)


def print_json(value: Sequence[Any] | Mapping[str, Any]) -> None:
    """Writes it, indented, to stdout."""
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())
