"""What a variant must show beside its parent before it is saved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from causeway.contract import Output
from causeway.optimise.measure import Figures, Scoring


@dataclass(frozen=True)
class Limits:
    """The gate's limits."""

    average_precision: float = 0.005
    """Most that is lost of it."""
    calibration: float = 0.1
    """Most by which the expected calibration error grows, as a share of the positives' share of the rows."""
    speedup: float = 1.02
    """A gain if the interval of the speed-up at some size is above; two sessions of one graph differ by up to 0.5 %."""
    smaller: float = 0.1
    """A gain if the file has so much less, as a share of the parent's."""


def reasons(variant: Figures, parent: Figures, output: Output, limits: Limits) -> list[str]:
    """Every reason for which the variant is not saved, each with the figure that failed; none where it may be."""
    return [*harm(variant, parent, output, limits), *_no_gain(variant, parent, limits)]


def harm(variant: Scoring, parent: Scoring, output: Output, limits: Limits) -> Iterator[str]:
    """The reasons for which the variant's scores may not take the place of the parent's."""
    # All are numbers: a test part without rows of both labels is refused when the table is split.
    lost = (parent.quality.average_precision or 0.0) - (variant.quality.average_precision or 0.0)
    if not lost <= limits.average_precision:
        yield f"it loses {lost:.4f} of average precision, more than {limits.average_precision:g}"
    worse = (variant.quality.calibration_error or 0.0) - (parent.quality.calibration_error or 0.0)
    allowed = limits.calibration * parent.quality.positives / parent.quality.rows
    if not worse <= allowed:
        yield f"its calibration error is {worse:.2g} larger, more than {allowed:.2g}"
    if not output.minimum <= variant.minimum <= variant.maximum <= output.maximum:
        told = f"{variant.minimum:g} to {variant.maximum:g}"
        yield f"it predicts {told}, outside the contract's {output.minimum:g} to {output.maximum:g}"
    if not variant.batch_difference <= output.tolerance:
        differs = f"a prediction differs by {variant.batch_difference:.2g} between alone and in a batch"
        yield f"{differs}, more than {output.tolerance:g}"


def _no_gain(variant: Figures, parent: Figures, limits: Limits) -> Iterator[str]:
    is_quicker = any(speed.interval[0] > limits.speedup for speed in variant.speeds)
    size = variant.n_bytes / parent.n_bytes
    if not is_quicker and size > 1 - limits.smaller:
        best = max(variant.speeds, key=lambda speed: speed.interval[0])
        quick = f"{best.interval[0]:.3f} times as quick or more (batches of {best.batch}), not {limits.speedup:g}"
        yield f"it gains nothing: {quick}, and {size:.0%} of the bytes, not {1 - limits.smaller:.0%}"
