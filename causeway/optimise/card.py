"""MODEL_CARD.md of a variant."""

from __future__ import annotations

from causeway.optimise.cells import quality_cells, speed_cells
from causeway.optimise.made import Made
from causeway.optimise.measure import CONFIDENCE, Figures
from causeway.optimise.parent import Parent
from causeway.training.evaluation import Evaluation
from causeway.training.report import metrics_table


def card(made: Made, parent: Parent, of_parent: Figures, evaluation: Evaluation) -> str:
    """What was done and what the variant does, before the card of its parent."""
    kind, own, theirs = made.kind, made.own, _cells(of_parent)
    rows = "\n".join(f"| {title} | {ours} | {theirs[title]} |" for title, ours in _cells(own).items())
    return f"""# Model card: {kind.name} of {parent.tag}

A variant of {parent.tag}, made from its graph. {kind.says}

On the same held-out rows and the same machine, one thread, in turn:

| | {kind.name} | {parent.tag} |
|---|---|---|
{rows}

Difference is the largest of a score from the parent's; in batches, the largest of a score between alone and in company;
memory what a process grows by; times as quick as the parent with a {CONFIDENCE:.0%} interval.
{_in_torch(made)}
The working threshold and the calibration map are the parent's; with them the variant does this:

{metrics_table(evaluation)}

What follows is the card of {parent.tag}; figures in it are that version's.

{parent.card}"""


def _cells(figures: Figures) -> dict[str, str]:
    batches = {
        f"{title}, batches of {speed.batch}": cell
        for speed in figures.speeds
        for title, cell in speed_cells(speed).items()
    }
    return quality_cells(figures) | batches


def _in_torch(made: Made) -> str:
    if made.in_torch is None:
        return ""
    precision, loss = made.in_torch.quality.average_precision, made.in_torch.difference
    return (
        f"\nOn a GPU torch may run it, from weights.safetensors, whose weights are in {made.kind.precision} too. On "
        f"the processor, with the same rows, that has an AP of {precision:.4f} and a difference of {loss:.2g}.\n"
    )
