"""Models of how p99 grows with the offered load, fitted well below the tipping point and asked where it is.

Each gives p99 by offered rate up to a capacity, beyond which a queue would grow without end:

- Universal Scalability Law (Gunther, Guerrilla Capacity Planning, 2007). Throughput at concurrency N is
  lambda N / (1 + sigma (N - 1) + kappa N (N - 1)), where N = rate * mean latency (Little's law). Its peak is the
  capacity; p99 is the multiple of the mean latency that it was in the fitted stages.
- M/G/1. The server's busiest process is a single server, whose utilisation grows linearly with the rate (utilisation
  law: Denning and Buzen, ACM Computing Surveys 10, 1978); the capacity is where it reaches 1. The mean wait is that of
  Pollaczek and Khinchine, its tail exponential.
- Batch server. A call of the engine takes all that has gathered during the one before. The CPU of the server's busiest
  process and the rows in a call tell what a call costs, and what each request: a and c. A cycle then takes
  a / (1 - rate * c), and p99 a multiple of it. The capacity is 1 / c, as if a call could be as large as it likes: where
  it cannot, the capacity is less.

They know p99 alone: nothing of refusals, nor of what does not show at low load.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, nnls

from load_tests.objective import Objective
from load_tests.result import Fit
from load_tests.stage import Stage
from load_tests.verdict import generator_fault

BELOW = 0.8
"""Of the tipping rate: what is fitted ends here, or the prediction would know what it predicts."""

LEAST_RATES = 4
"""Different ones that a fit needs: three are left where each is left out in turn."""

LEAST_GROWTH = 1.5
"""Of the rows of a batch from the least to the most: without it a fixed cost cannot be told from one of rows."""

MOST_ERROR = 1.0
"""Relative; a prediction that is further off, or infinite, counts as this."""

CURVE_POINTS = 60
CURVE_P99S = 5.0
"""The objective's, up to which a curve is drawn."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A fitted model."""

    parameters: dict[str, float]
    capacity: float
    """Requests a second; infinite where nothing bounds it."""
    p99_s: Callable[[float], float]
    """By offered rate; infinite from the capacity on."""


Model = Callable[[Sequence[Stage]], Curve | None]
"""Fits itself to stages of at least three rates; None where they do not support it."""


def fits(stages: Sequence[Stage], objective: Objective, tipping: float | None) -> list[Fit]:
    """The models that the stages support, the least error first; none where fewer than `LEAST_RATES` rates can be used.

    Used are those at no more than `BELOW` of the tipping rate (where nothing tipped, all that met the objective) in
    which the generator was not the limit. error: of p99. predicted_rate: where p99 reaches the objective, or the
    capacity.
    """
    used = [stage for stage in stages if _is_used(stage, objective, tipping)]
    if len({stage.rate for stage in used}) < LEAST_RATES:
        return []
    found = [_fit(name, model, used, objective) for name, model in MODELS.items()]
    return sorted((fit for fit in found if fit), key=lambda fit: fit.error)


def _is_used(stage: Stage, objective: Objective, tipping: float | None) -> bool:
    if stage.latency is None or not min(stage.rate, stage.latency.mean_ms, stage.latency.p99_ms) > 0:
        return False
    is_below = stage.meets(objective) if tipping is None else stage.rate <= BELOW * tipping
    return is_below and not generator_fault(stage, objective)


def _fit(name: str, model: Model, stages: Sequence[Stage], objective: Objective) -> Fit | None:
    curve = model(stages)
    if curve is None:
        return None
    predicted = _predicted_rate(curve, objective.p99_ms / 1e3)
    is_throughput = model is scalability_law
    return Fit(
        name=name,
        parameters=curve.parameters,
        predicted_rate=predicted if math.isfinite(predicted) else None,
        error=_error(model, stages),
        curve=_throughput(curve, stages) if is_throughput else _p99(curve, stages, objective),
        of="throughput" if is_throughput else "p99_ms",
    )


def scalability_law(stages: Sequence[Stage]) -> Curve | None:
    """The Universal Scalability Law: mean latency W = w + b N + c N (N - 1), linear in what is fitted."""
    rates, mean_s, p99_s = _rates(stages), _latency_s(stages, "mean_ms"), _latency_s(stages, "p99_ms")
    n = rates * mean_s
    w, b, c = _coefficients([np.ones_like(n), n, n * (n - 1)], mean_s)
    if w <= 0:
        return None
    tail = float(np.median(p99_s / mean_s))
    peak_n = max(1.0, math.sqrt(w / c)) if c else math.inf
    capacity = 1 / (w / peak_n + b + c * (peak_n - 1)) if c else _inverse(b)

    def p99(rate: float) -> float:
        half = 1 - rate * (b - c)
        root = half**2 - 4 * c * rate**2 * w
        return tail * 2 * w / (half + math.sqrt(root)) if rate < capacity and half > 0 <= root else math.inf

    one = w + b
    parameters = {"lambda": 1 / one, "sigma": b / one, "kappa": c / one, "p99_over_mean": tail}
    return Curve(parameters, capacity, p99)


def single_server(stages: Sequence[Stage]) -> Curve | None:
    """M/G/1 with utilisation = idle + demand * rate, from the CPU of the server's busiest process."""
    used = [stage.usage.busiest_server_process or 0.0 for stage in stages]
    if min(used) <= 0:
        return None
    rates = _rates(stages)
    idle, demand = _coefficients([np.ones_like(rates), rates], np.array(used))
    if demand <= 0 or (capacity := (1 - idle) / demand) <= rates.max():
        return None

    def shape(rate: float) -> float:
        return math.log(max(1.0, 100 * (idle + demand * rate))) / (demand * (capacity - rate))

    return _queue(stages, shape, capacity, {"idle_cores": idle, "cpu_ms_per_request": 1e3 * demand})


def batch_server(stages: Sequence[Stage]) -> Curve | None:
    """CPU of a per call of the engine and c per request; each worker process has its share of the rate."""
    used = [stage.usage.busiest_server_process or 0.0 for stage in stages]
    batch_rows = np.array([stage.server_side.batch_rows or 0.0 for stage in stages])
    if min(used) <= 0 or batch_rows.min() <= 0 or batch_rows.max() < LEAST_GROWTH * batch_rows.min():
        return None
    rates, workers = _rates(stages), _workers(stages)
    calls = rates * np.array([stage.rows for stage in stages]) / batch_rows
    a, c = _coefficients([calls / workers, rates / workers], np.array(used))
    if c <= 0 or (capacity := workers / c) <= rates.max():
        return None

    def shape(rate: float) -> float:
        return capacity / (capacity - rate)

    return _queue(stages, shape, capacity, {"cpu_ms_per_call": 1e3 * a, "cpu_ms_per_request": 1e3 * c})


MODELS: dict[str, Model] = {
    "Universal Scalability Law": scalability_law,
    "M/G/1": single_server,
    "batch server": batch_server,
}


def _queue(
    stages: Sequence[Stage], shape: Callable[[float], float], capacity: float, parameters: dict[str, float]
) -> Curve:
    """p99 = fixed + tail * shape(rate), the two fitted."""
    shapes = np.array([shape(stage.rate) for stage in stages])
    fixed, tail = _coefficients([np.ones_like(shapes), shapes], _latency_s(stages, "p99_ms"))
    return Curve(
        parameters | {"fixed_ms": 1e3 * fixed, "tail_ms": 1e3 * tail},
        capacity,
        lambda rate: fixed + tail * shape(rate) if rate < capacity else math.inf,
    )


def _workers(stages: Sequence[Stage]) -> float:
    """How many processes as busy as the busiest the server's CPU amounts to; 1 where it cannot be seen."""
    usages = [stage.usage for stage in stages]
    ratios = [u.server / u.busiest_server_process for u in usages if u.server and u.busiest_server_process]
    return max(1.0, float(np.median(ratios))) if ratios else 1.0


def _coefficients(columns: Sequence[Array], values: Array) -> list[float]:
    """Of the columns, none negative, with the least sum of squared relative residuals. values: (n,), positive."""
    relative = np.column_stack(columns) / values[:, None]
    scale = np.abs(relative).max(axis=0)
    scale[scale == 0] = 1.0
    found, _ = nnls(relative / scale, np.ones_like(values))
    return [float(value) for value in found / scale]


def _error(model: Model, stages: Sequence[Stage]) -> float:
    """Root mean square of the relative errors of p99, at each rate by the curve that was fitted without it."""
    errors: list[float] = []
    for rate in {stage.rate for stage in stages}:
        curve = model([stage for stage in stages if stage.rate != rate])
        predicted = curve.p99_s(rate) if curve else math.inf
        p99_s = _latency_s([stage for stage in stages if stage.rate == rate], "p99_ms")
        errors += [min(abs(predicted / measured - 1), MOST_ERROR) for measured in p99_s]
    return math.sqrt(math.fsum(error**2 for error in errors) / len(errors))


def _predicted_rate(curve: Curve, p99_s: float) -> float:
    """Where p99 reaches this, or the capacity where it does not before; infinite where there is neither."""
    below = curve.capacity * (1 - 1e-9)
    if not math.isfinite(below) or curve.p99_s(below) <= p99_s:
        return curve.capacity
    if curve.p99_s(0.0) >= p99_s:
        return 0.0
    return float(brentq(lambda rate: curve.p99_s(rate) - p99_s, 0.0, below))


def _p99(curve: Curve, stages: Sequence[Stage], objective: Objective) -> list[tuple[float, float]]:
    """(requests a second, p99 in ms), from the lowest rate that was fitted until far past the objective."""
    points = ((rate, 1e3 * curve.p99_s(rate)) for rate in _plotted(curve, stages))
    return [(rate, p99_ms) for rate, p99_ms in points if p99_ms <= CURVE_P99S * objective.p99_ms]


def _throughput(curve: Curve, stages: Sequence[Stage]) -> list[tuple[float, float]]:
    """(offered requests a second, answers a second)."""
    return [(rate, min(rate, curve.capacity)) for rate in _plotted(curve, stages)]


def _plotted(curve: Curve, stages: Sequence[Stage]) -> list[float]:
    """From the lowest rate that was fitted to somewhat past the capacity, or twice the highest where there is none."""
    lowest, highest = min(_rates(stages)), max(_rates(stages))
    end = 1.2 * curve.capacity if math.isfinite(curve.capacity) else 2 * highest
    return [float(rate) for rate in np.linspace(lowest, max(end, highest), CURVE_POINTS)]


def _rates(stages: Sequence[Stage]) -> Array:
    return np.array([stage.rate for stage in stages])


def _latency_s(stages: Sequence[Stage], field: str) -> Array:
    """`mean_ms` or `p99_ms` of each, in seconds."""
    return np.array([getattr(stage.latency, field) for stage in stages]) / 1e3


def _inverse(seconds: float) -> float:
    return 1 / seconds if seconds > 0 else math.inf
