"""The study of truth: its theory against a queue that is played through, and itself in small."""

import json

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from load_tests.machine import Cores
from load_tests.open_loop import arrivals
from load_tests.open_loop.client import ask, request
from load_tests.studies import truth
from load_tests.studies.known_server import BODY, Server
from load_tests.studies.truth import Plan, Theory

CALM = Server(service_s=0.002, stall_s=0, period_s=5)
BRIEF = Server(service_s=0.002, stall_s=0.25, period_s=1)

servers = st.builds(
    Server,
    service_s=st.floats(0.001, 0.01),
    stall_s=st.floats(0, 1),
    period_s=st.floats(5, 10),
)


def played(server: Server, rate: float, periods: int) -> np.ndarray:
    """Latencies of requests that come evenly, through the stalls of so many periods."""
    line = server.line()
    due_s = np.arange(0, periods * server.period_s, 1 / rate)
    return np.array([line.enter(at_s) for at_s in due_s.tolist()]) - due_s


@given(servers, st.floats(0.05, 0.8), st.floats(0, 1))
@example(truth.STALLING, 0.4, 0.5)
@example(CALM, 0.4, 0.5)
def test_the_share_of_slow_requests_is_theorys_but_for_one_request_a_stall(
    server: Server, utilisation: float, x: float
) -> None:
    assume(server.stall_s / (1 - utilisation) < server.period_s / 2)  # the last line empties within the window
    rate, periods = utilisation / server.service_s, 3
    latency_s = server.service_s * 1.001 + x * server.stall_s
    slower = np.count_nonzero(played(server, rate, periods) > latency_s) / periods
    assert slower == pytest.approx(Theory(server, rate).share_slower(latency_s) * rate * server.period_s, abs=1.01)


@given(servers, st.floats(0.05, 0.8), st.sampled_from([0.5, 0.95, 0.99, 0.999]))
def test_a_quantile_is_the_latency_that_the_rest_exceeds(server: Server, utilisation: float, q: float) -> None:
    theory = Theory(server, utilisation / server.service_s)
    assert theory.quantile(q) >= server.service_s
    if theory.quantile(q) > server.service_s:
        assert theory.share_slower(theory.quantile(q)) == pytest.approx(1 - q)


def test_poisson_arrivals_have_the_same_mean_far_above_the_service_time() -> None:
    server, rate, rng = truth.STALLING, truth.RATE, np.random.default_rng(0)
    line, latency_s = server.line(), 0.25
    due_s = arrivals.poisson(rate, 2_000 * server.period_s, rng)
    slower = np.mean([line.enter(at_s) - at_s > latency_s for at_s in due_s.tolist()])
    assert slower == pytest.approx(Theory(server, rate).share_slower(latency_s), rel=0.02)


def test_the_known_server_answers_and_tells_how_late_it_was() -> None:
    with truth.serving(CALM, Cores.divided()) as (port, lateness):
        assert ask(port, request(b"{}")).body == BODY
    assert lateness["answers"] == 1


def test_the_study_in_small_finds_what_locust_omits() -> None:
    result = truth.measure(Plan(BRIEF, rounds=1, periods=1, calm_s=0.2, contestants=("ours", "few")))
    (found,) = result["rounds"]
    assert found["ours"]["stalling"]["requests"] == truth.RATE * BRIEF.period_s
    theory = result["theory"]["stalling"]["slower"]["125"]
    assert found["few"]["stalling"]["slower"]["125"] < theory / 2 < found["ours"]["stalling"]["slower"]["125"]


def test_what_was_kept_is_what_is_promised() -> None:
    kept = json.loads(truth.RESULT.read_text())
    assert len(kept["rounds"]) >= 3
    assert truth.worst_error(kept) <= truth.TOLERANCE
    assert "| slower than 255 ms | 8.2% |" in truth.markdown(kept)
