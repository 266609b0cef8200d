"""What the generator says of its requests is what became of them."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from load_tests.machine import free_port
from load_tests.open_loop import generator
from load_tests.open_loop.arrivals import constant
from load_tests.open_loop.client import HOST, request
from load_tests.open_loop.generator import Generator, offer
from load_tests.open_loop.offered import Outcome
from load_tests.open_loop.record import NO_ANSWER, UNSENT, Record
from tests.load_tests.open_loop.served import HANGS_UP, Reply, serving, stalling

STALL_S = 0.4
HELD_UP_S = 0.2
EMPTY = [request(b"{}")]


def at_once(n: int) -> NDArray[np.float64]:
    """A schedule of n requests that are all due in the beginning."""
    return np.zeros(n)


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Schedules start at once."""
    monkeypatch.setattr(generator, "LEAD_S", 0.01)


@pytest.fixture
def stalling_port() -> Iterator[int]:
    """The port of a server that stalls once."""
    with serving(stalling(STALL_S)) as server:
        yield server.port


def test_a_stall_shows_in_every_request_that_was_due_meanwhile(stalling_port: int) -> None:
    due_s = np.arange(0.0, 0.6, 0.02)
    offered = offer(stalling_port, EMPTY, due_s, connections=100)
    assert (offered.outcome == Outcome.RIGHT).all()
    stalled = due_s < STALL_S - 0.1
    assert (offered.latency_s[stalled] >= STALL_S - due_s[stalled] - 0.02).all()
    assert offered.connections > 5


def test_requests_without_a_free_connection_are_unsent(stalling_port: int) -> None:
    offered = offer(stalling_port, EMPTY, np.arange(0.0, 0.2, 0.02), connections=3)
    assert offered.status.tolist() == [200] * 3 + [UNSENT] * 7
    assert offered.outcome.tolist() == [Outcome.RIGHT] * 3 + [Outcome.UNSENT] * 7
    assert np.isnan(offered.sent_s).tolist() == np.isnan(offered.latency_s).tolist() == [False] * 3 + [True] * 7


def test_answers_that_never_come_are_failures(stalling_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "GRACE_S", 0.05)
    offered = offer(stalling_port, EMPTY, at_once(1), connections=1)
    assert offered.status.tolist() == [NO_ANSWER]
    assert np.isnan(offered.latency_s).all()
    assert offered.faults == {"no answer within 0.05 s of the last request": 1}


@pytest.mark.parametrize(
    ("reply", "outcome", "faults"),
    [
        (Reply(200), Outcome.RIGHT, {}),
        (Reply(503, b"busy"), Outcome.REFUSED, {}),
        (Reply(504, b"late"), Outcome.REFUSED, {}),
        (Reply(429, b"slow down"), Outcome.REFUSED, {}),
        (Reply(500, b"broken"), Outcome.FAILED, {"status 500": 2}),
        (Reply(422, b"no row"), Outcome.FAILED, {"status 422": 2}),
        (Reply(200, b"nonsense"), Outcome.WRONG, {"nonsense": 2}),
        (HANGS_UP, Outcome.FAILED, {"the connection was closed before the answer": 2}),
        (
            Reply(200, b"", {"Content-Length": ""}),
            Outcome.FAILED,
            {"an answer with neither Content-Length nor chunks": 2},
        ),
    ],
)
def test_refusals_are_told_from_failures_and_from_wrong_answers(
    reply: Reply | None, outcome: Outcome, faults: dict[str, int]
) -> None:
    def check(_: int, body: bytes) -> str | None:
        return None if body == b"{}" else body.decode()

    with serving(lambda *_: reply) as server:
        offered = offer(server.port, EMPTY, at_once(2), connections=2, check=check)
    assert offered.outcome.tolist() == [outcome] * 2
    assert offered.faults == faults
    assert np.isnan(offered.latency_s).all() == (offered.status == NO_ANSWER).all()


def test_whether_a_refusal_says_when_to_come_back_is_noted() -> None:
    with serving(lambda number, _: Reply(503, b"", {"Retry-After": "1"} if number else {})) as server:
        offered = offer(server.port, EMPTY, at_once(2), connections=2)
    assert sorted(offered.has_retry_after) == [False, True]


def test_each_request_is_checked_as_itself() -> None:
    seen: list[tuple[int, bytes]] = []
    with serving(lambda _, body: Reply(200, body)) as server:
        requests = [request(b"%d" % number) for number in range(3)]
        offered = offer(server.port, requests, at_once(6), connections=6, check=lambda *answer: seen.append(answer))
    assert sorted(seen) == [(number, b"%d" % number) for number in (0, 0, 1, 1, 2, 2)]
    assert offered.place.tolist() == [0, 1, 2, 0, 1, 2]


def test_nothing_listening_is_a_failure_of_every_request() -> None:
    offered = offer(free_port(), EMPTY, at_once(3), connections=3)
    assert (offered.outcome == Outcome.FAILED).all()
    assert offered.faults == {"Connection refused": 3}


def test_a_generator_that_is_held_up_says_how_late_it_turned_to_each_request() -> None:
    def check(_: int, __: bytes) -> None:
        time.sleep(HELD_UP_S)

    due_s = constant(1_000, 1.5 * HELD_UP_S)
    with serving(lambda *_: Reply()) as server:
        offered = offer(server.port, EMPTY, due_s, connections=1, check=check)
    assert (offered.late_s >= 0).all()
    assert offered.late_s.max() >= HELD_UP_S - 2e-3
    # While it looked at the answer it turned to nothing.
    turned_to_s = due_s + offered.late_s
    assert np.diff(turned_to_s).max() >= HELD_UP_S
    assert offered.sent_s[0] == pytest.approx(offered.late_s[0], abs=HELD_UP_S)


def test_large_requests_and_answers_arrive_whole() -> None:
    large = bytes(3_000_000)
    with serving(lambda _, body: Reply(200, body)) as server:
        offered = offer(
            server.port,
            [request(large)],
            at_once(2),
            connections=2,
            check=lambda _, body: None if body == large else "cut",
        )
    assert (offered.outcome == Outcome.RIGHT).all()


def test_a_connection_that_the_server_closes_is_replaced() -> None:
    with serving(lambda *_: Reply(200, b"{}", {"Connection": "close"})) as server:
        offered = offer(server.port, EMPTY, at_once(5), connections=5)
    assert (offered.outcome == Outcome.RIGHT).all()


@pytest.mark.parametrize("is_kept", [True, False])
def test_connections_are_kept_between_schedules_where_the_server_keeps_them(is_kept: bool) -> None:
    connections = set()
    with serving(lambda *_: Reply()) as server:
        sending = Generator((HOST, server.port), EMPTY, 2)
        for _ in range(2):
            record = Record.of(at_once(1), np.zeros(1, dtype=np.intp))
            sending.offer(record, time.perf_counter() + 0.02)
            assert record.status.tolist() == [200]
            connections.update(server.connections)
            if not is_kept:
                server.hang_up()
        sending.close()
    assert len(connections) == (1 if is_kept else 2)


@pytest.mark.parametrize("is_old", [True, False])
def test_a_connection_that_was_idle_for_as_long_as_servers_keep_them_is_not_used_again(
    monkeypatch: pytest.MonkeyPatch, is_old: bool
) -> None:
    monkeypatch.setattr(generator, "IDLE_S", 0.0 if is_old else 60.0)
    with serving(lambda *_: Reply()) as server:
        offered = offer(server.port, EMPTY, np.array([0.0, 0.1, 0.2]), connections=1)
        assert len(server.connections) == (3 if is_old else 1)
    assert (offered.outcome == Outcome.RIGHT).all()
