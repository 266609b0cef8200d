"""A variant is refused for each harm, and for want of a gain, with the figure that failed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from causeway.contract import Output
from causeway.optimise.gate import Limits, reasons
from causeway.optimise.measure import Figures, Speed
from causeway.quality.measures import Quality

QUALITY = Quality(1000, 100, 0.9, 0.6, 0.05, 0.01, 0.2)
SLOW = Speed(1, 0.1, 0.2, 10_000, 1.0, (0.98, 1.01))
QUICK = Speed(512, 1.0, 1.2, 500_000, 1.5, (1.4, 1.6))
PARENT = Figures(QUALITY, 0.0, 1.0, 0.0, 1e-7, [SLOW, replace(SLOW, batch=512)], 10_000, 1_000_000)
GOOD = replace(PARENT, difference=0.1, speeds=[SLOW, QUICK])
OUTPUT = Output("p")


def told(**changed: Any) -> list[str]:
    of_quality = {name: changed.pop(name) for name in ("average_precision", "calibration_error") if name in changed}
    return reasons(replace(GOOD, quality=replace(QUALITY, **of_quality), **changed), PARENT, OUTPUT, Limits())


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"average_precision": 0.5951},
        {"average_precision": 0.7},
        {"calibration_error": 0.0199},
        {"batch_difference": 1e-5},
        {"speeds": [SLOW, SLOW], "n_bytes": 9000},
        {"n_bytes": 20_000},
    ],
)
def test_what_harms_nothing_and_gains_something_passes(changed: dict[str, Any]) -> None:
    assert told(**changed) == []


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"average_precision": 0.594}, "it loses 0.0060 of average precision, more than 0.005"),
        ({"average_precision": None}, "it loses 0.6000 of average precision, more than 0.005"),
        ({"calibration_error": 0.021}, "its calibration error is 0.011 larger, more than 0.01"),
        ({"maximum": 1.5}, "it predicts 0 to 1.5, outside the contract's 0 to 1"),
        ({"minimum": float("nan")}, "it predicts nan to 1, outside the contract's 0 to 1"),
        (
            {"batch_difference": 0.02},
            "a prediction differs by 0.02 between alone and in a batch, more than 1e-05",
        ),
        (
            {"speeds": [SLOW, replace(QUICK, speedup=1.2, interval=(0.9, 1.4))], "n_bytes": 9100},
            "it gains nothing: 0.980 times as quick or more (batches of 1), not 1.02, and 91% of the bytes, not 90%",
        ),
    ],
)
def test_each_failure_is_told_with_its_figure(changed: dict[str, Any], reason: str) -> None:
    assert told(**changed) == [reason]


def test_all_reasons_are_told_at_once() -> None:
    harm = {"average_precision": 0.1, "calibration_error": 0.5, "maximum": 2.0, "batch_difference": 1.0}
    assert len(told(**harm, speeds=[SLOW])) == 5


def test_less_precise_variants_may_differ_more_in_company() -> None:
    variant = replace(GOOD, batch_difference=1e-3)
    assert reasons(variant, PARENT, Output("p", tolerance=2e-3), Limits()) == []
