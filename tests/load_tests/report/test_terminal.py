"""What a person reads in the terminal."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from load_tests.comparison import compare
from load_tests.report import terminal, terminal_comparison
from load_tests.result import Result
from tests.load_tests import stages
from tests.load_tests.report.pages import limited, ramp, spike

RED = "\x1b[1;31m"


@pytest.fixture
def console() -> Console:
    """One of 500 columns that knows colours, and remembers."""
    return Console(file=StringIO(), width=500, force_terminal=True, color_system="standard", highlight=False)


def printed(console: Console) -> str:
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def plain(console: Console) -> str:
    """Without colours."""
    return re.sub(r"\x1b\[[\d;]*m", "", printed(console)).strip()


def test_the_sentence_stands_last(console: Console) -> None:
    terminal(ramp(), console)
    assert plain(console).endswith(ramp().says)


def test_the_stages_are_those_of_the_repeat_that_the_sentence_is_about(console: Console) -> None:
    terminal(ramp(), console)
    rows = [line.split() for line in plain(console).splitlines() if line.rstrip().endswith(("met", "missed"))]
    assert [row[0] for row in rows[:5]] == ["200", "400", "600", "800", "900"]
    assert len(rows) == len(stages.FACTORS)


def test_the_table_has_room_in_80_columns() -> None:
    narrow = Console(file=StringIO(), width=80)
    terminal(ramp(), narrow)
    heads = printed(narrow).splitlines()[1].split()
    assert heads == [
        "offered/s",
        "goodput/s",
        "p50",
        "ms",
        "p99",
        "ms",
        "p99.9",
        "ms",
        "errors",
        *["busiest"] * 2,
        "objective",
    ]
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed(narrow)


def test_a_generator_that_was_the_limit_is_red(console: Console) -> None:
    terminal(limited(), console)
    assert f"{RED}No capacity figure" in printed(console)


def test_a_failed_check_is_red_and_says_so(console: Console) -> None:
    terminal(spike(), console)
    assert f"{RED}FAILED\x1b[0m open files: 3 are left" in printed(console)


def test_markup_in_names_is_printed_as_it_is(console: Console) -> None:
    results: list[Result] = [ramp("[red]one[/red]"), ramp("[bold]")]
    terminal_comparison(compare(results), console)
    assert "[red]one[/red]" in printed(console)


def test_a_comparison_says_the_differences_and_what_is_wrong_with_it(console: Console) -> None:
    comparison = compare([ramp(), limited()])
    terminal_comparison(comparison, console)
    assert comparison.warnings
    assert f"{RED}{comparison.warnings[0][:40]}" in printed(console)
