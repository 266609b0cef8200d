"""Figures as people read them."""

from __future__ import annotations

from load_tests import verdict

NONE = "-"
"""Where there is no figure."""


def number(value: float | None) -> str:
    """Three significant digits, in groups of three; a dash for None."""
    return NONE if value is None else verdict.number(value)


def exactly(value: float | None) -> str:
    """All digits, in groups of three: of what was counted or asked for, and of ticks; a dash for None."""
    return NONE if value is None else f"{value:,.9g}".replace(",", " ")


def percent(share: float | None) -> str:
    """A share, 0 to 1, as `0.1 %`; a dash for None."""
    return NONE if share is None else f"{number(100 * share)} %"


def listed(names: dict[str, float] | dict[str, int] | dict[str, str]) -> str:
    """`a 1, b 2`; a dash for nothing."""
    return ", ".join(f"{name} {_plain(value)}" for name, value in names.items()) or NONE


def _plain(value: float | str) -> str:
    return value if isinstance(value, str) else number(value)
