"""What is measured: one file each, found by its name; each has `run(bench)`, which returns values for JSON."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from load_tests.bench.bench import Bench

NAMES = (
    "one_row",
    "thousand_rows",
    "monitored",
    "scraped",
    "two_workers",
    "livez",
    "dear",
    "overload",
    "hang_up",
    "poison",
    "swaps",
    "shadow",
)
"""In the order in which they run: scenarios with the same servers are neighbours."""


class Scenario(Protocol):
    """What a file here offers."""

    __doc__: str | None

    @staticmethod
    def run(bench: Bench) -> dict[str, Any]:
        """All rounds, and what they come to."""


def scenario(name: str) -> Scenario:
    """The scenario in `name`.py."""
    return cast(Scenario, importlib.import_module(f"{__name__}.{name}"))
