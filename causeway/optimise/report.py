"""What was measured, as the command tells it."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
from rich.table import Table

from causeway.console import table
from causeway.optimise.cells import quality_cells, speed_cells
from causeway.optimise.gate import Limits
from causeway.optimise.parent import ROOT, Parent
from causeway.optimise.study import PARENT, Judged
from causeway.training import provenance
from causeway.training.dataset import Split


def shown(parent: Parent, parts: Split, judged: Sequence[Judged]) -> Iterator[str | Table]:
    """What is printed: two tables of all that were measured, and what became of each variant."""
    measured = {each.name: each.figures for each in judged if each.figures is not None}
    yield f"{parent.tag} ({PARENT}) and its variants on {len(parts.test)} held-out rows; one thread of {cpu_name()}"
    yield _table([{"variant": name} | quality_cells(figures) for name, figures in measured.items()])
    yield ""
    yield _table(
        [
            {"variant": name, "rows a call": str(speed.batch)} | speed_cells(speed)
            for name, figures in measured.items()
            for speed in figures.speeds
        ]
    )
    yield ""
    for each in judged:
        if each.name != PARENT:
            yield f"{each.name}: {_verdict(each)}"
    if saved := [each.tag for each in judged if each.tag is not None]:
        latest = f"{parent.tag.partition(':')[0]}:latest"
        yield f"To serve one: causeway promote TAG. Unasked, {latest} is the last of them now, {saved[-1]}"


def _table(rows: Sequence[Mapping[str, str]]) -> Table:
    """One row each; all but the first column are numbers."""
    first, *numbers = rows[0]
    made = table(first, *numbers, numbers=numbers)
    for row in rows:
        made.add_row(*row.values())
    return made


def _verdict(judged: Judged) -> str:
    if judged.tag is not None:
        return f"saved as {judged.tag}"
    return f"refused: {'; '.join(judged.reasons)}" if judged.reasons else "passes; a dry run saves nothing"


def to_dict(parent: Parent, parts: Split, judged: Sequence[Judged]) -> dict[str, Any]:
    """All of it for programs, with what it depends on."""
    return {
        "parent": parent.tag,
        "family": parent.family,
        "data": parts.test.source,
        "split": parts.how,
        "seed": parent.seed,
        "commit": provenance.commit(ROOT),
        "cpu": cpu_name(),
        "versions": provenance.versions(),
        "limits": asdict(Limits()),
        "variants": msgspec.to_builtins(judged),
    }


def cpu_name() -> str:
    """The processor, as Linux names it; elsewhere as Python does."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
