"""Soaks and spikes that never happened, and what is said of them."""

from collections.abc import Iterable

import pytest

from load_tests.conductor import Found
from load_tests.result import Check, Sample
from load_tests.soak import Soak
from load_tests.spike import Spike
from tests.load_tests.stages import OBJECTIVE, stage

SOAK = Soak(rate=100, seconds=600, warm_up_s=2)
SPIKE = Spike(rate=100, factor=4, seconds=10, stage_s=10, warm_up_s=2)


def sample(at_s: float, **changes: float | None) -> Sample:
    """A second in which all was well, but for the changes."""
    calm = {"right": 100, "refused": 0, "failed": 0, "p99_ms": 20.0, "memory_mb": 200.0, "open_files": 30, "threads": 9}
    known = {**calm, **changes}
    return Sample(at_s=at_s, rate=100, p50_ms=5.0, server_cores=0.2, **known)  # type: ignore[arg-type]


def failed(checks: Iterable[Check]) -> list[str]:
    """Names of the checks that did not pass."""
    return [check.name for check in checks if not check.is_passed]


def soak(**growth: float) -> Found:
    """Ten minutes, in which some fields of the samples grow by so much a second."""
    calm = sample(0)
    grown = ({name: getattr(calm, name) + rate * at_s for name, rate in growth.items()} for at_s in range(600))
    return Found([[stage(100)] * 10], [sample(at_s, **each) for at_s, each in enumerate(grown)])


@pytest.mark.parametrize(
    ("field", "a_second", "fails"),
    [
        ("memory_mb", 0.001, []),  # 0.3 MB of 200 in the half that counts
        ("memory_mb", 0.02, ["steady memory"]),
        ("memory_mb", -0.02, []),
        ("open_files", 0.05, ["steady open files"]),
        ("threads", 0.05, ["steady threads"]),
        ("p99_ms", 0.02, ["steady latency"]),
    ],
)
def test_a_soak_fails_where_something_grows_that_matters(field: str, a_second: float, fails: list[str]) -> None:
    assert failed(SOAK.checks(soak(**{field: a_second}), OBJECTIVE)) == fails


def test_what_grows_while_caches_fill_is_no_leak() -> None:
    filling = Found([[stage(100)]], [sample(at_s, memory_mb=min(at_s, 300.0)) for at_s in range(600)])
    assert failed(SOAK.checks(filling, OBJECTIVE)) == []


def test_a_soak_has_an_objective_for_all_of_it() -> None:
    """One bad minute of ten is 1 % of the requests or more."""
    bad = Found([[stage(100, refused=20), stage(100, good=900), *[stage(100)] * 8]], [sample(0)])
    checks = {check.name: check for check in SOAK.checks(bad, OBJECTIVE)}
    assert failed(checks.values()) == ["errors", "latency"]
    assert checks["errors"].says == "0.2 % of 10000 requests got no right answer, of at most 0.1 %"
    assert "the worst p99 in 10 s was 20 ms" in checks["latency"].says


def test_a_soak_of_a_server_that_cannot_be_seen_tells_no_growth() -> None:
    unseen = [sample(at_s, memory_mb=None, open_files=None, threads=None) for at_s in range(60)]
    assert [check.name for check in SOAK.checks(Found([[stage(100)]], unseen), OBJECTIVE)] == [
        "errors",
        "latency",
        "steady latency",
    ]


def spike(recovers_s: float, **during: int) -> Found:
    """After it, samples of a second are slow until then."""
    slow = [sample(at_s, p99_ms=500.0) for at_s in range(20, 50) if at_s < 20 + recovers_s]
    calm = [sample(at_s) for at_s in (*range(20), *range(20 + len(slow), 50))]
    return Found([[stage(100), stage(400, **during), stage(100)]], sorted(slow + calm, key=lambda each: each.at_s))


def test_a_spike_whose_surplus_is_refused_is_borne() -> None:
    checks = {check.name: check for check in SPIKE.checks(spike(3, refused=2_900), OBJECTIVE)}
    assert failed(checks.values()) == []
    assert checks["goodput"].says == "110/s in the spike, 100/s before; 2900 of 4000 refused"
    assert checks["recovery"].says == "as before 3 s after the spike"


def test_a_spike_that_leaves_less_goodput_or_no_recovery_is_not_borne() -> None:
    assert failed(SPIKE.checks(spike(0, refused=3_100), OBJECTIVE)) == ["goodput"]
    assert failed(SPIKE.checks(spike(29), OBJECTIVE)) == ["recovery"]


def test_a_single_calm_sample_is_no_recovery() -> None:
    found = spike(10)
    found.samples[25] = sample(25)
    checks = {check.name: check for check in SPIKE.checks(found, OBJECTIVE)}
    assert checks["recovery"].says == "as before 10 s after the spike"
