"""What README tells of variants: a line for each, whatever became of it."""

from __future__ import annotations

from typing import Any

import msgspec

from causeway.optimise.cells import quality_cells
from causeway.optimise.measure import BATCHES, Figures, Speed
from causeway.optimise.study import PARENT, Judged
from causeway.quality.measures import Quality
from load_tests.studies.variants import markdown

QUALITY = Quality(
    rows=100, positives=5, auc_roc=0.9, average_precision=0.7, brier_score=0.01, calibration_error=0.002, log_loss=0.1
)
SPEEDS = [Speed(batch, 0.25, 0.5, 1_000.0 * batch, 1.0, (0.9, 1.1)) for batch in BATCHES]
FIGURES = Figures(QUALITY, 0.0, 1.0, 0.001, 1e-6, SPEEDS, 12_300, 4_500_000)
JUDGED = [
    Judged(PARENT, FIGURES),
    Judged("int8-static", FIGURES, tag="fraud:abc"),
    Judged("int8-dynamic", FIGURES, ["it loses 0.0100 of average precision, more than 0.005", "it gains nothing"]),
    Judged("pruned-50", reasons=["no layer has hidden units to take out"]),
]


def result(family: str, tag: str) -> dict[str, Any]:
    """As `causeway optimise --json` prints it."""
    told = {"parent": tag, "family": family, "data": "a table", "cpu": "a processor", "commit": "0123456789"}
    return {**told, "variants": msgspec.to_builtins(JUDGED)}


def test_each_variant_has_its_figures_and_what_became_of_it() -> None:
    lines = markdown(result("mlp", "fraud:one")).splitlines()
    assert any(line.startswith("**mlp** (`fraud:one`, on a table") for line in lines)
    cells = quality_cells(FIGURES)
    figures = f"0.7000 | 0.9000 | {cells['ECE']} | 0.001 | 12.3 | 4.5 | 0.25 / 0.5 | 64 000"
    assert f"| {PARENT} | {figures} | the version itself |" in lines
    assert f"| int8-static | {figures} | saved |" in lines
    assert any(line.startswith("| int8-dynamic |") and "refused: it loses 0.0100" in line for line in lines)
    assert any(line.endswith("| refused: no layer has hidden units to take out |") for line in lines)
    tables = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 1


def test_several_versions_have_a_table_each() -> None:
    text = markdown([result("transformer", "fraud:one"), result("mlp", "fraud:two")])
    assert text.count(f"| {PARENT} |") == 2
    assert text.count("![") == 1
    assert "of fraud:one loses" in text
