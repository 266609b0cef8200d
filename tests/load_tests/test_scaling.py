"""Models fitted below the tipping point, against simulated servers whose tipping point they have not seen."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from load_tests.objective import Objective
from load_tests.result import Fit
from load_tests.scaling import BELOW, CURVE_P99S, LEAST_RATES, fits
from load_tests.stage import Latency, ServerSide, Stage
from load_tests.verdict import tipping_rate
from tests.load_tests.stages import OBJECTIVE, stage, usage

LOADS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.975, 1.0, 1.05)
WIRE_MS = 0.5
"""What every answer takes besides."""


@dataclass(frozen=True)
class Simulated:
    """A server with one core, which computes at once what has gathered, at most `most` requests."""

    call_s: float
    request_s: float
    most: int | None = None

    def stage(self, rate: float, requests: int = 10_000) -> Stage:
        """What a test of it says where callers come independently."""
        came = np.random.default_rng(0).exponential(1 / rate, requests).cumsum()
        done, calls = np.empty(requests), list(self._calls(came))
        for first, beyond, _, end in calls:
            done[first:beyond] = end
        latency_ms = 1e3 * (done - came) + WIRE_MS
        busy = sum(end - start for _, _, start, end in calls) / done[-1]
        quantiles = [float(value) for value in np.percentile(latency_ms, [50, 95, 99, 99.9])]
        return stage(
            rate,
            latency=Latency(float(latency_ms.mean()), *quantiles, float(latency_ms.max())),
            usage=usage(server=float(busy)),
            server_side=ServerSide(batch_rows=requests / len(calls)),
        )

    def _calls(self, came: np.ndarray) -> Iterator[tuple[int, int, float, float]]:
        """(first request, the one after the last, start, end) of each call."""
        first, end = 0, 0.0
        while first < len(came):
            start = max(end, float(came[first]))
            beyond = int(np.searchsorted(came, start, side="right"))
            beyond = min(beyond, first + (self.most or beyond))
            end = start + self.call_s + self.request_s * (beyond - first)
            yield first, beyond, start, end
            first = beyond

    def ramp(self, capacity: float) -> list[Stage]:
        return [self.stage(load * capacity) for load in LOADS]


def fitted(stages: list[Stage]) -> tuple[dict[str, Fit], float]:
    """By name, and the measured tipping rate."""
    tipping = tipping_rate(stages, OBJECTIVE)
    assert tipping is not None
    return {fit.name: fit for fit in fits(stages, OBJECTIVE, tipping)}, tipping


@pytest.mark.parametrize("service_s", [0.005, 0.0002])
def test_a_single_server_is_predicted_within_a_tenth_by_m_g_1(service_s: float) -> None:
    """M/D/1: one request after the other, each of which takes the same time."""
    models, tipping = fitted(Simulated(0.0, service_s, most=1).ramp(1 / service_s))
    assert models["M/G/1"].predicted_rate == pytest.approx(tipping, rel=0.10)
    assert models["M/G/1"].parameters["cpu_ms_per_request"] == pytest.approx(1e3 * service_s, rel=0.02)
    assert next(iter(models)) == "M/G/1", "the model that it is has the least error"


@pytest.mark.parametrize(("call_s", "request_s"), [(0.010, 0.001), (0.002, 0.001), (0.0001, 0.0001)])
def test_a_batch_server_is_predicted_within_a_tenth_though_it_is_busy_from_early_on(
    call_s: float, request_s: float
) -> None:
    models, tipping = fitted(Simulated(call_s, request_s).ramp(1 / request_s))
    assert models["batch server"].predicted_rate == pytest.approx(tipping, rel=0.10)
    assert models["batch server"].parameters == pytest.approx(
        models["batch server"].parameters | {"cpu_ms_per_call": 1e3 * call_s, "cpu_ms_per_request": 1e3 * request_s},
        rel=0.05,
    )
    assert "M/G/1" not in models, "cost a request falls with the load, so utilisation says little"


@pytest.mark.parametrize("server", [Simulated(0.0, 0.005, most=1), Simulated(0.002, 0.001), Simulated(0.01, 0.001)])
def test_the_universal_scalability_law_is_within_a_quarter_on_any_of_them(server: Simulated) -> None:
    models, tipping = fitted(server.ramp(1 / server.request_s))
    assert models["Universal Scalability Law"].predicted_rate == pytest.approx(tipping, rel=0.25)


def test_the_universal_scalability_law_finds_its_own_parameters() -> None:
    stages = [law(n, 500.0, 0.05, 0.0004) for n in (1, 2, 4, 8, 12, 16, 20)]
    (fit, *_) = [fit for fit in fits(stages, OBJECTIVE, None) if fit.of == "throughput"]
    assert fit.parameters == pytest.approx({"lambda": 500.0, "sigma": 0.05, "kappa": 0.0004, "p99_over_mean": 3.0})
    assert fit.error < 1e-6
    peak_n = math.sqrt((1 - 0.05) / 0.0004)
    assert max(throughput for _, throughput in fit.curve) == pytest.approx(law(peak_n, 500.0, 0.05, 0.0004).rate)


def law(n: float, alone: float, sigma: float, kappa: float) -> Stage:
    """A stage at concurrency n of a server that scales as the law says."""
    rate = alone * n / (1 + sigma * (n - 1) + kappa * n * (n - 1))
    mean_ms = 1e3 * n / rate
    return stage(rate, latency=Latency(mean_ms, mean_ms, mean_ms, 3 * mean_ms, 4 * mean_ms, 5 * mean_ms))


def test_worker_processes_share_the_rate() -> None:
    one = Simulated(0.002, 0.001)
    two = [
        msgspec.structs.replace(each, rate=2 * each.rate, usage=msgspec.structs.replace(each.usage, server=server))
        for each in one.ramp(1 / one.request_s)
        if (server := 2 * (each.usage.busiest_server_process or 0.0))
    ]
    alone, _ = fitted(one.ramp(1 / one.request_s))
    both, _ = fitted(two)
    assert both["batch server"].predicted_rate == pytest.approx(2 * (alone["batch server"].predicted_rate or 0.0))


def test_what_is_fitted_ends_well_below_the_tipping_point() -> None:
    stages = Simulated(0.0, 0.005, most=1).ramp(200.0)
    tipping = tipping_rate(stages, OBJECTIVE)
    assert tipping is not None
    below = [stage for stage in stages if stage.rate <= BELOW * tipping]
    assert len(below) < len(stages)
    assert fits(stages, OBJECTIVE, tipping) == fits(below, OBJECTIVE, tipping)


def test_stages_in_which_the_generator_was_the_limit_are_left_out() -> None:
    stages = Simulated(0.0, 0.005, most=1).ramp(200.0)
    late = stage(50.0, p99_ms=90.0, late_p99_ms=80.0)
    assert fits([late, *stages], OBJECTIVE, 200.0) == fits(stages, OBJECTIVE, 200.0)


def test_too_few_rates_have_no_fit_however_often_they_were_offered() -> None:
    few = [stage(100.0 * (1 + place)) for place in range(LEAST_RATES - 1)]
    assert fits([*few, *few], OBJECTIVE, None) == []
    assert fits([*few, stage(1_000.0)], OBJECTIVE, None) != []


def test_without_the_servers_cpu_and_metrics_only_the_scalability_law_is_fitted() -> None:
    stages = [
        msgspec.structs.replace(each, usage=usage(server=None), server_side=ServerSide())
        for each in Simulated(0.002, 0.001).ramp(1_000.0)
    ]
    assert set(fitted(stages)[0]) == {"Universal Scalability Law"}


def test_a_curve_is_drawn_from_the_lowest_rate_until_p99_is_far_past_the_objective() -> None:
    models, tipping = fitted(Simulated(0.0, 0.005, most=1).ramp(200.0))
    rates, p99_ms = zip(*models["M/G/1"].curve, strict=True)
    assert rates[0] == pytest.approx(20.0)
    assert rates[-1] > 0.9 * tipping
    assert list(p99_ms) == sorted(p99_ms)
    assert p99_ms[-1] <= CURVE_P99S * OBJECTIVE.p99_ms


ANY = st.one_of(st.just(0.0), st.floats(1e-3, 1e6))
SOME = st.floats(1e-3, 1e6)


def some_stages(cores: st.SearchStrategy[float | None], values: st.SearchStrategy[float]) -> st.SearchStrategy:
    return st.lists(
        st.builds(
            stage,
            rate=values,
            rows=st.floats(1, 1e3),
            latency=st.builds(Latency, values, values, values, values, values, values),
            usage=st.builds(usage, cores, st.floats(0, 0.8)),
            server_side=st.builds(ServerSide, batch_rows=values),
        ),
        max_size=12,
    )


STAGES = st.one_of(
    some_stages(st.floats(1e-4, 0.9), SOME),
    some_stages(st.one_of(st.none(), st.just(0.0), st.floats(1e-4, 64)), ANY),
)


@given(STAGES, st.one_of(st.none(), ANY))
def test_whatever_was_measured_fits_are_finite_and_can_be_written(stages: list[Stage], tipping: float | None) -> None:
    found = fits(stages, Objective(p99_ms=1e7, errors=1.0), tipping)
    assert [fit.error for fit in found] == sorted(fit.error for fit in found)
    assert msgspec.json.decode(msgspec.json.encode(found), type=list[Fit]) == found
    for fit in found:
        assert all(map(math.isfinite, [fit.error, *fit.parameters.values()])), fit
