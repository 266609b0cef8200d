"""What takes the fast path is answered, refused and counted as on the long way; what cannot take it is left alone."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from causeway import errors
from causeway.contract import Array
from causeway.deployment import Deployment
from causeway.door import Door
from causeway.monitoring.metrics import Metrics
from causeway.protocol import FastPathProtocol, FastRequest
from causeway.rest import Rest
from causeway.settings import Settings
from causeway.version import ModelVersion
from tests import tiny
from tests.conftest import PATIENCE_S

ROWS = [[0.5, 1.0], [-1.0, 1.0]]
JSON = {b"content-type": b"application/json"}


def body(*rows: list[float]) -> bytes:
    return json.dumps({"features": rows or ROWS}).encode()


class Connection:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, dict[str, str], Any]] = []

    def send(self, status_line: bytes, head: bytes, body: bytes, *, keep_alive: bool) -> None:
        lines = head.decode().rstrip("\r\n").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert int(headers.pop("content-length")) == len(body)
        self.sent.append((int(status_line.split()[1]), headers, json.loads(body or "{}")))


class Noted:
    """A recorder that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[Any] = []

    def note(self, *record: Any) -> None:
        self.records.append(record)


class Engine:
    """Predicts the first feature, and calls `before` first."""

    def __init__(self) -> None:
        self.calls: list[list[float]] = []
        self.before: Callable[[Array], None] = lambda X: None

    def run(self, X: Array) -> Array:
        self.calls.append(X[:, 0].tolist())
        self.before(X)
        return X[:, :1] / 10


class Service:
    """The application with a version, without a server around it."""

    def __init__(self, *, spans: Any = None, **settings: Any) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        chosen = Settings(model=tiny.saved_scaled(1.0).tag, **settings)
        self.deployment = Deployment(chosen, self.metrics)
        self.deployment.start()
        self.rest = Rest(
            cast(Any, None), deployment=self.deployment, settings=chosen, metrics=self.metrics, spans=spans
        )
        self.noted = Noted()
        self.rest._recorder = cast(Any, self.noted)

    @property
    def version(self) -> ModelVersion:
        return self.deployment.champion.version

    @property
    def door(self) -> Door:
        return self.rest._doors["interactive"]

    def given_an_engine(self) -> Engine:
        engine = Engine()
        object.__setattr__(self.version, "runtime", engine)
        return engine

    def request(
        self, data: bytes, headers: Mapping[bytes, bytes] | None = None, *, started: float | None = None
    ) -> tuple[FastRequest, Connection]:
        connection = Connection()
        at = time.perf_counter() if started is None else started
        return FastRequest(cast(FastPathProtocol, connection), {**JSON, **(headers or {})}, data, at), connection

    def take(
        self, data: bytes = body(), headers: Mapping[bytes, bytes] | None = None
    ) -> tuple[FastRequest, Connection]:
        request, connection = self.request(data, headers)
        assert self.rest.fast_path.take(request)
        return request, connection

    def count(self, status: int) -> float | None:
        self.metrics.flush()
        labels = {"endpoint": "/predict", "status": str(status)}
        return self.registry.get_sample_value("causeway_requests_total", labels)

    def assert_nobody_is_inside(self) -> None:
        assert self.rest.fast_path.n_inside == 0
        assert self.door._inside == 0
        assert self.door._n_waiting == 0
        assert self.deployment.waiting_rows == 0


async def answer_of(connection: Connection) -> tuple[int, dict[str, str], Any]:
    async with asyncio.timeout(PATIENCE_S):
        while not connection.sent:
            await asyncio.sleep(0)
    (sent,) = connection.sent
    return sent


def run(scenario: Callable[[Service], Awaitable[None]], **given: Any) -> Service:
    """Of a service to which nothing clings afterwards."""
    service = Service(**given)
    asyncio.run(cast(Any, scenario(service)))
    service.assert_nobody_is_inside()
    return service


async def the_long_way(service: Service, headers: dict[bytes, bytes]) -> tuple[dict[str, str], Any]:
    """Headers and body of the 200 that an ASGI server gets."""
    messages: list[Any] = [{"type": "http.request", "body": body()}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop() if messages else await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    length = (b"content-length", str(len(body())).encode())
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [*headers.items(), length]}
    await service.rest(scope, receive, send)
    start, end = sent
    assert start["status"] == 200
    return {name.decode(): value.decode() for name, value in start["headers"]}, json.loads(end["body"])


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"x-request-id": b"mine", b"x-routing-key": b"customer 7", b"x-priority": b"bulk", b"x-timeout-ms": b"900"},
        {b"content-type": b"application/json; charset=utf-8"},
    ],
)
def test_it_answers_and_keeps_what_the_long_way_does(headers: dict[bytes, bytes]) -> None:
    service = Service()
    long_headers, long = asyncio.run(the_long_way(service, {**JSON, **headers}))

    async def fast() -> tuple[int, dict[str, str], Any]:
        _, connection = service.take(headers=headers)
        return await answer_of(connection)

    status, told, answer = asyncio.run(fast())
    assert status == 200
    assert {*told} - {"date"} == {*long_headers} - {"content-length"}
    assert told["content-type"] == long_headers["content-type"]
    assert [part.split(";")[0] for part in told["server-timing"].split(", ") if "dur" in part] == [
        part.split(";")[0] for part in long_headers["server-timing"].split(", ") if "dur" in part
    ]
    assert (
        answer["request_id"]
        == told["x-request-id"]
        == headers.get(b"x-request-id", told["x-request-id"].encode()).decode()
    )
    assert len(answer["request_id"]) in (4, 32)
    for name in ("predictions", "model_version", "variant"):
        assert answer[name] == long[name]
    first, second = service.noted.records
    assert [type(value) for value in first] == [type(value) for value in second]
    for ours, theirs in zip(second[3][:5], first[3][:5], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert all(seconds >= 0 for seconds in second[3][5])
    service.assert_nobody_is_inside()


LEFT_ALONE: list[tuple[bytes, dict[bytes, bytes]]] = [
    (b"", {}),
    (b"[]", {}),
    (b'{"features": []}', {}),
    (b'{"features": [[NaN, 1]]}', {}),
    (b'{"features": [[1]]}', {}),
    (body(), {b"x-timeout-ms": b"soon"}),
    (body(), {b"x-model-version": b"fraud:nowhere"}),
    (body(), {b"x-priority": b"urgent"}),
    (body(), {b"x-request-id": b"two words"}),
    (body(), {b"content-type": b"text/plain"}),
    (body(), {b"content-encoding": b"gzip"}),
]


@pytest.mark.parametrize(("data", "headers"), LEFT_ALONE)
def test_what_is_to_be_refused_is_left_to_the_long_way(data: bytes, headers: dict[bytes, bytes]) -> None:
    async def scenario(service: Service) -> None:
        request, connection = service.request(data, headers)
        assert not service.rest.fast_path.take(request)
        await asyncio.sleep(0)
        assert connection.sent == []

    service = run(scenario)
    assert service.noted.records == []
    assert service.count(400) in (0, None)


def test_what_needs_more_than_its_batch_is_left_to_the_long_way() -> None:
    async def scenario(service: Service) -> None:
        assert not service.rest.fast_path.take(service.request(body())[0])

    run(scenario, cache_bytes=1_000_000)
    run(scenario, spans=object())
    unready = Service()
    unready.deployment._served = None
    asyncio.run(scenario(unready))


@pytest.mark.parametrize("is_open", [True, False])
def test_what_cannot_be_done_in_time_is_refused_at_once(is_open: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causeway.door.WAITING", 0)

    async def scenario(service: Service) -> None:
        engine = service.given_an_engine()
        crowd = None if is_open else AtTheDoor(service)
        _, connection = service.take(headers={b"x-timeout-ms": b"0.000001" if is_open else b"1000"})
        ((status, _, answer),) = connection.sent
        assert (status, answer["code"]) == ((504, "deadline_exceeded") if is_open else (503, "overloaded"))
        assert engine.calls == []
        if crowd is not None:
            crowd.go()

    run(scenario)


class Dear:
    """Makes a service's model so dear that it computes in a thread, where it waits until it is let go on."""

    def __init__(self, service: Service) -> None:
        self.engine, self.go_on = service.given_an_engine(), threading.Event()
        self.engine.before = lambda X: cast(None, self.go_on.wait(PATIENCE_S))
        self.batcher = service.deployment.champion.batcher
        self.batcher.cost.fixed_s, self.batcher.cost.per_unit_s = 0.5, 0.0

    async def begun(self) -> None:
        """Returns once it computes."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.batcher.is_computing:
                await asyncio.sleep(0)

    async def idle(self) -> None:
        """Returns once nothing waits or is computed."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.batcher.is_idle:
                await asyncio.sleep(0)


PATIENT = {b"x-timeout-ms": b"20000"}


def test_behind_the_long_queue_of_a_dear_model_they_are_refused_unread() -> None:
    async def scenario(service: Service) -> None:
        dear = Dear(service)
        first = service.take(headers=PATIENT)[1]
        await dear.begun()
        request, connection = service.request(b"{", {b"x-timeout-ms": b"100", b"x-request-id": b"mine"})
        assert service.rest.fast_path.take(request)
        ((status, headers, answer),) = connection.sent
        assert (status, answer["code"], answer["request_id"]) == (503, "overloaded", "mine")
        assert int(headers["retry-after"]) >= 1
        assert service.count(503) == 1
        assert (request.body, request.drop) == (b"", None)
        dear.go_on.set()
        assert (await answer_of(first))[0] == 200
        dear.batcher.close()

    run(scenario)


def test_requests_for_a_dear_model_share_a_batch_in_its_thread_and_wait_at_no_door() -> None:
    async def scenario(service: Service) -> None:
        dear = Dear(service)
        crowd = AtTheDoor(service)
        first = service.take(headers=PATIENT)[1]
        await dear.begun()
        others = [service.take(body([float(n), 1.0]), PATIENT)[1] for n in range(3)]
        dear.go_on.set()
        for n, connection in enumerate(others):
            status, headers, answer = await answer_of(connection)
            assert (status, answer["predictions"]) == (200, [[pytest.approx(n / 10)]])
            assert '"3 rows, drained"' in headers["server-timing"]
        assert (await answer_of(first))[0] == 200
        assert sorted(map(len, dear.engine.calls)) == [2, 3]
        crowd.go()
        dear.batcher.close()

    service = run(scenario)
    assert len(service.noted.records) == 4


def test_who_hangs_up_while_a_dear_model_computes_others_is_not_computed() -> None:
    async def scenario(service: Service) -> None:
        dear = Dear(service)
        first = service.take(headers=PATIENT)[1]
        await dear.begun()
        request, _ = service.take(body([3.0, 1.0]), PATIENT)
        request.disconnected = True
        request.message_event.set()
        assert service.count(499) == 1
        dear.go_on.set()
        assert (await answer_of(first))[0] == 200
        await dear.idle()
        dear.batcher.close()
        assert [len(call) for call in dear.engine.calls] == [2]

    run(scenario)


def test_whose_deadline_passes_while_a_dear_model_computes_it_is_told_at_once() -> None:
    async def scenario(service: Service) -> None:
        dear = Dear(service)
        dear.batcher.cost.fixed_s = 0.01
        _, connection = service.take(headers={b"x-timeout-ms": b"100"})
        status, _, answer = await answer_of(connection)
        assert (status, answer["code"]) == (504, "deadline_exceeded")
        dear.go_on.set()
        await dear.idle()
        dear.batcher.close()
        assert len(connection.sent) == 1

    run(scenario)


@pytest.mark.parametrize("broken", ["put", "encode", "_ended"])
def test_a_fault_of_ours_gets_an_answer_and_leaves_nobody_inside(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    async def scenario(service: Service) -> None:
        faults: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context["exception"]))
        variant = service.deployment.champion
        owner = {"put": variant.batcher, "encode": variant, "_ended": service.rest.fast_path}[broken]
        monkeypatch.setattr(owner, broken, fail)
        status, _, answer = await answer_of(service.take()[1])
        if broken == "_ended":  # it has its answer
            assert (status, [str(fault) for fault in faults]) == (200, [])
        else:
            assert (status, answer["code"]) == (500, "internal_error")
            assert "a fault of ours" not in str(answer)

    run(scenario)


def test_requests_that_have_come_together_are_one_batch_and_the_guilty_pays_alone() -> None:
    async def scenario(service: Service) -> None:
        engine = service.given_an_engine()

        def fail(X: Array) -> None:
            if (X[:, 0] == 3).any():
                raise ValueError("not this row")

        engine.before = fail
        connections = [service.take(body([float(a), 1.0]))[1] for a in range(1, 5)]
        answers = [await answer_of(connection) for connection in connections]
        assert engine.calls[0] == [1, 2, 3, 4]
        assert [status for status, _, _ in answers] == [200, 200, 500, 200]
        assert [answer["predictions"] for _, _, answer in answers if "predictions" in answer] == [
            [[pytest.approx(a / 10)]] for a in (1, 2, 4)
        ]
        assert answers[2][2]["code"] == "model_failed"
        assert "not this row" not in str(answers[2])

    service = run(scenario)
    assert (service.count(200), service.count(500)) == (0, 1)  # those with predictions are counted by the recorder
    assert len(service.noted.records) == 3


def test_a_lost_device_is_told_to_all() -> None:
    async def scenario(service: Service) -> None:
        def lose(X: Array) -> None:
            raise errors.DeviceLost("cuda:0", "CUDA error")

        service.given_an_engine().before = lose
        connections = [service.take()[1] for _ in range(3)]
        for connection in connections:
            status, headers, answer = await answer_of(connection)
            assert (status, answer["code"]) == (503, "device_lost")
            assert "retry-after" in headers

    assert run(scenario).count(503) == 3


def test_an_answer_that_is_late_is_none() -> None:
    async def scenario(service: Service) -> None:
        request, connection = service.request(body(), {b"x-timeout-ms": b"50"})

        def dawdle(X: Array) -> None:
            while time.perf_counter() < request.started + 0.05:
                pass

        service.given_an_engine().before = dawdle
        assert service.rest.fast_path.take(request)
        status, _, answer = await answer_of(connection)
        assert (status, answer["code"]) == (504, "deadline_exceeded")

    assert run(scenario).count(504) == 1


def hang_up(request: FastRequest) -> None:
    """As uvicorn tells it."""
    request.disconnected = True
    request.message_event.set()


def test_who_hangs_up_before_the_batch_is_not_computed() -> None:
    async def scenario(service: Service) -> None:
        engine = service.given_an_engine()
        gone, to_nobody = service.take(body([1.0, 1.0]))
        _, connection = service.take(body([2.0, 1.0]))
        hang_up(gone)
        assert (await answer_of(connection))[0] == 200
        assert (await answer_of(to_nobody))[0] == 499
        assert engine.calls == [[2.0]]
        hang_up(gone)  # once more hurts nobody

    assert run(scenario).count(499) == 1


def test_who_hangs_up_while_it_is_computed_is_not_answered() -> None:
    async def scenario(service: Service) -> None:
        request, connection = service.request(body())
        service.given_an_engine().before = lambda X: setattr(request, "disconnected", True)
        assert service.rest.fast_path.take(request)
        assert (await answer_of(connection))[0] == 499

    service = run(scenario)
    assert (service.count(499), service.noted.records) == (1, [])


class AtTheDoor:
    """A crowd."""

    def __init__(self, service: Service) -> None:
        self.service = service
        while service.door.is_open:
            service.door.enter()
        self.n = service.door._inside

    def go(self) -> None:
        for _ in range(self.n):
            self.service.door.leave(0.0)


def test_behind_a_crowd_they_wait_their_turn() -> None:
    async def scenario(service: Service) -> None:
        engine = service.given_an_engine()
        crowd = AtTheDoor(service)
        connections = [service.take(body([float(a), 1.0]))[1] for a in range(1, 4)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert engine.calls == []
        crowd.go()
        assert [(await answer_of(connection))[0] for connection in connections] == [200] * 3
        assert [row for call in engine.calls for row in call] == [1, 2, 3]

    run(scenario)


def test_whose_time_is_over_at_the_door_is_refused_and_who_has_gone_is_not_let_in() -> None:
    async def scenario(service: Service) -> None:
        engine = service.given_an_engine()
        crowd = AtTheDoor(service)
        _, late = service.take(headers={b"x-timeout-ms": b"20"})
        gone, to_nobody = service.take()
        hang_up(gone)
        status, headers, answer = await answer_of(late)
        assert (status, answer["code"]) == (503, "overloaded")
        assert "retry-after" in headers
        crowd.go()
        assert (await answer_of(to_nobody))[0] == 499
        assert engine.calls == []

    service = run(scenario)
    assert (service.count(503), service.count(499)) == (1, 1)


def test_who_cannot_be_done_in_time_any_more_when_let_in_is_refused() -> None:
    async def scenario(service: Service) -> None:
        engine = service.given_an_engine()
        crowd = AtTheDoor(service)
        _, connection = service.take(headers={b"x-timeout-ms": b"5000"})
        batcher = service.deployment.champion.batcher
        batcher.cost = type(batcher.cost)(60.0, 0.0)
        crowd.go()
        status, _, answer = await answer_of(connection)
        assert (status, answer["code"]) == (503, "deadline_unreachable")
        assert engine.calls == []

    run(scenario)


def test_of_what_was_answered_nothing_is_kept() -> None:
    kept: list[weakref.ref[Any]] = []

    async def scenario(service: Service) -> None:
        def keep(X: Array) -> None:
            kept.append(weakref.ref(X))

        service.given_an_engine().before = keep
        request, connection = service.take()
        await answer_of(connection)
        await asyncio.sleep(0)
        assert (request.body, request.answered, request.drop) == (b"", None, None)
        service.noted.records.clear()

    gc.disable()
    try:
        run(scenario)
        assert [reference() for reference in kept] == [None]
    finally:
        gc.enable()
