"""Plots over the offered load show what they are about."""

from __future__ import annotations

from matplotlib.figure import Figure
from msgspec.structs import replace

from load_tests.report import against_load
from load_tests.report.plot import curve
from load_tests.result import Result
from tests.load_tests import stages
from tests.load_tests.report.pages import ramp


def test_the_axis_of_fitted_p99_spans_what_was_measured_however_far_apart() -> None:
    first, *others = ramp().repeats
    slow = [replace(stage, latency=stages.latency(3.0 if stage.rate < 900 else 900.0)) for stage in first.stages]
    result: Result = replace(ramp(), repeats=[replace(first, stages=slow), *others])
    (plot,) = (plot for plot in against_load.models(result) if "p99" in plot.name)
    axes = Figure().add_subplot()
    plot.draw(axes)
    bottom, top = axes.get_ylim()
    assert 0.3 < bottom < 3.0
    assert 900.0 < top < 2_000.0


def test_saturated_is_what_stays_full_and_now_and_then_what_does_not() -> None:
    rates = (100.0, 200.0, 400.0)
    seen = {"idle": (0.1, 0.2, 0.3), "full": (0.2, 0.95, 0.99), "peak": (0.92, 0.99, 0.5), "late": (0.95, 0.3, 0.95)}
    curves = [curve(name, zip(rates, values, strict=True)) for name, values in seen.items()]
    assert against_load.saturation([each for each in curves if each]) == (
        "Saturated were: idle: at no rate; full: from 200 requests/s on; peak: now and then, first at 100 requests/s; "
        "late: from 400 requests/s on."
    )
