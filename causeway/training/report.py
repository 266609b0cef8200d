"""The evaluation as people read it: on the terminal, and in the model card."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from causeway.contract import Contract
from causeway.quality.measures import Quality
from causeway.training.evaluation import Evaluation
from causeway.training.gate import Measured

_COLUMNS = ("rows", "positives", "AUC ROC", "AP", "precision", "recall", "card P@100", "Brier", "ECE", "log loss")


def metrics_table(evaluation: Evaluation) -> str:
    """A Markdown table: the model, the baseline, then the model by slices."""
    named = {
        "**model**": evaluation.model,
        "baseline (logistic regression)": evaluation.baseline,
        **evaluation.slices,
    }
    return _table(("", *_COLUMNS), ((name, *_cells(quality)) for name, quality in named.items()))


def model_card(
    *,
    name: str,
    family: str,
    description: str,
    contract: Contract,
    evaluation: Evaluation,
    measured: Measured,
    facts: Mapping[str, Any],
) -> str:
    """MODEL_CARD.md. Sections after Mitchell et al., Model Cards for Model Reporting (2019)."""
    features = _table(
        ("feature", "type", "minimum", "maximum", "meaning"),
        ((f.name, f.dtype, f"{f.minimum:g}", f"{f.maximum:g}", f.description) for f in contract.features),
    )
    calibration = _table(
        ("rows", "mean predicted", "observed"),
        ((f"{b['rows']:.0f}", f"{b['predicted']:.5f}", f"{b['observed']:.5f}") for b in evaluation.calibration),
    )
    return f"""# Model card: {name}

{description}

## Details

{_table(("", ""), ((key, _value(value)) for key, value in {"family": family, **facts}.items()))}

## Input and output

Output: `{contract.output.name}`, {contract.output.minimum:g} to {contract.output.maximum:g}.
{contract.output.description}
A value outside minimum and maximum is refused.

{features}

## Evaluation on held-out rows

{metrics_table(evaluation)}

AP is average precision{_interval(evaluation.model, "average_precision")}; precision and recall are those at the working
threshold; card P@100 is the precision of the 100 highest-scored cards a day; ECE the expected calibration error. The
exported model differs from the trained one by at most {measured.parity:.2g}, takes
{measured.latency_ms * 1000:.0f} us for one row here (one thread), and has {measured.model_bytes} bytes.

## Working threshold

A row with a score of {evaluation.working.threshold:.4g} or more counts as positive: the threshold with the largest F1
for the training rows, each scored by a model that was fitted without it. On the held-out rows precision is
{_share(evaluation.model, "precision")}, recall {_share(evaluation.model, "recall")}. Whoever knows what a false alarm
costs, and a missed positive, knows a better one.

## Calibration

{calibration}

## Limits

The figures hold for rows like those it was tested on ({facts["data"]}). They say nothing about data that has
drifted away from reference.json. A score is a probability only as far as the calibration above holds.
"""


def to_json(value: Any) -> bytes:
    """Indented JSON; never NaN, which JSON does not have."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _cells(quality: Quality) -> tuple[str, ...]:
    figures = (
        quality.auc_roc,
        quality.average_precision,
        quality.precision,
        quality.recall,
        quality.card_precision_at_100,
        quality.brier_score,
        quality.calibration_error,
        quality.log_loss,
    )
    return (str(quality.rows), str(quality.positives), *("-" if f is None else f"{f:.4f}" for f in figures))


def _share(quality: Quality, name: str) -> str:
    figure = getattr(quality, name)
    return "undefined" if figure is None else f"{figure:.4f}{_interval(quality, name)}"


def _interval(quality: Quality, name: str) -> str:
    """The figure's interval in words for after it; nothing where it has none."""
    if name not in quality.intervals:
        return ""
    low, high = quality.intervals[name]
    return f" (95 % interval {low:.4f} to {high:.4f})"


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A Markdown table, padded so that it also reads well unrendered."""
    body = [header, *(tuple(row) for row in rows)]
    widths = [max(3, *(len(row[i]) for row in body)) for i in range(len(header))]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in body]
    lines = [f"| {' | '.join(row)} |" for row in padded]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
