"""Schedules against real servers: what is counted, on both sides, and what ends them."""

import io
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack

import numpy as np
import pytest
from rich.console import Console

from load_tests import served
from load_tests.conductor import Conductor, Found
from load_tests.display import Display
from load_tests.objective import Objective
from load_tests.open_loop.fleet import Fleet
from load_tests.outcome import Phase
from load_tests.served import ServerGone
from load_tests.soak import Soak
from load_tests.spike import Spike
from tests.conftest import Server
from tests.load_tests.known import ONE_ROW, known_server

EASY = Objective(p99_ms=20_000, errors=1.0)
"""What a busy machine that runs tests keeps to as well."""
SERVICE_S = 0.005

Conduct = Callable[[Server], Conductor]


class Lines(io.StringIO):
    """What is written, told line by line."""

    def __init__(self, told: Callable[[str], object]) -> None:
        super().__init__()
        self._told = told

    def write(self, text: str) -> int:
        self._told(text)
        return super().write(text)


@pytest.fixture
def conduct() -> Iterator[Conduct]:
    """Makes a conductor of one-row requests at equal distances for a server."""
    with ExitStack() as ended:

        def begin(server: Server, told: Callable[[str], object] = lambda text: None) -> Conductor:
            display = Display(Console(file=Lines(told), width=200), EASY)
            fleet: AbstractContextManager[Fleet] = Fleet(server.url, ONE_ROW, connections=500)
            running = served.running(server.url)
            rng = np.random.default_rng(0)
            return Conductor(running, ended.enter_context(fleet), ONE_ROW, EASY, display, rng, is_constant=True)

        yield begin


@pytest.fixture(scope="module")
def known() -> Iterator[Server]:
    """200 requests/s at most."""
    with known_server(SERVICE_S) as running:
        yield running


def test_a_stage_is_measured_on_both_sides_but_for_its_warm_up(server: Server, conduct: Conduct) -> None:
    stage = conduct(server).stage(100, seconds=1, warm_up_s=0.5)
    assert (stage.rate, stage.seconds, stage.warm_up_s) == (100, 1, 0.5)
    assert stage.due == stage.right == stage.good == stage.good_rows == 100
    assert stage.errors == stage.refused == stage.failed == stage.wrong == stage.unsent == 0
    assert stage.usage.server is not None
    assert stage.usage.busiest_server_process is not None
    assert 0 < stage.usage.busiest_server_process <= stage.usage.server
    assert 0 < stage.usage.busiest_generator == stage.usage.generator
    assert 0 < stage.usage.machine <= 1
    assert stage.usage.memory_mb is not None
    assert stage.usage.memory_mb > 50
    # The server counts between its own looks at the edges, which a busy machine makes late.
    assert 0 < sum(stage.server_side.released.values()) <= 150
    assert stage.server_side.queue_ms is not None
    assert stage.server_side.batch_rows is not None
    assert stage.server_side.loop_lag_ms is not None


def test_a_server_that_says_nothing_of_itself_is_measured_from_outside(known: Server, conduct: Conduct) -> None:
    stage = conduct(known).stage(50, seconds=1, warm_up_s=0)
    assert stage.latency is not None
    assert stage.latency.p50_ms >= 1e3 * SERVICE_S
    assert stage.server_side.queue_ms is None
    assert stage.server_side.released == {}
    assert stage.usage.server is not None


def test_phases_follow_without_a_gap_and_are_told_apart(known: Server, conduct: Conduct) -> None:
    phases = [Phase(40, 0.5, counts=False), Phase(40, 0.5), Phase(100, 0.5), Phase(20, 1)]
    stages, samples = conduct(known).offer(phases, sample_s=0.5)
    assert [stage.due for stage in stages] == [20, 50, 20]
    assert [stage.began - stages[0].began for stage in stages] == pytest.approx([0, 0.5, 1], abs=1e-3)
    assert [(sample.at_s, sample.rate, sample.right) for sample in samples] == [
        (0, 40, 20),
        (0.5, 100, 50),
        (1.0, 20, 10),
        (1.5, 20, 10),
    ]
    assert all(sample.threads and sample.open_files and sample.memory_mb for sample in samples)


def test_a_server_that_dies_ends_the_schedule_and_is_named(conduct: Conduct) -> None:
    with known_server(SERVICE_S) as mortal:
        conductor = conduct(mortal)
        conductor.stage(20, seconds=0.5, warm_up_s=0)
        mortal.process.kill()
        mortal.process.wait()
        with pytest.raises(ServerGone, match=f"nothing listens at {mortal.url} any more"):
            conductor.stage(20, seconds=0.5, warm_up_s=0)


def test_a_server_that_dies_in_the_middle_of_a_schedule_does_not_keep_it_waiting(conduct: Conduct) -> None:
    with known_server(SERVICE_S) as mortal:
        conductor = conduct(mortal)
        shown = conductor.display.progress

        def kill(*given: object) -> None:
            mortal.process.kill()
            shown(*given)  # type: ignore[arg-type]

        conductor.display.progress = kill  # type: ignore[method-assign]
        with pytest.raises(ServerGone):
            conductor.stage(20, seconds=600, warm_up_s=0)


def test_a_soak_goes_on_in_pieces_and_answers_for_all_of_it(
    known: Server, conduct: Conduct, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("load_tests.soak.PIECE_S", 1.0)
    soak, found = Soak(rate=40, seconds=2, warm_up_s=0.2), Found()
    soak.run(conduct(known), found)
    assert [(stage.due, stage.warm_up_s) for stage in found.stages] == [(40, 0.2), (40, 0)]
    assert found.samples[0].at_s == 0
    assert found.samples[1].at_s == pytest.approx(found.stages[1].began - found.stages[0].began)
    assert {check.name for check in soak.checks(found, EASY) if check.is_passed} == {"errors", "latency"}


def test_a_server_recovers_from_a_spike_at_the_speed_that_is_left(known: Server, conduct: Conduct) -> None:
    """50/s of 200/s, then 400/s for half a second: 100 requests too many, done at 150/s within 0.7 s."""
    spike, found = Spike(rate=50, factor=8, seconds=0.5, stage_s=1, warm_up_s=0), Found()
    spike.run(conduct(known), found)
    before, during, after = found.stages
    assert (before.due, during.due, after.due) == (50, 200, 150)
    assert during.latency is not None
    assert during.latency.max_ms > 400
    checks = {check.name: check for check in spike.checks(found, EASY)}
    assert checks["goodput"].is_passed
    assert checks["recovery"].is_passed, (checks, found.samples)
    assert "steady memory" in checks
