"""Whole, plain requests to /predict are offered to the fast path; others go uvicorn's way, and all in their order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import time
import weakref
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
import uvicorn
import uvloop
from hypothesis import given, settings
from hypothesis import strategies as st

from causeway.asgi import json_answer
from causeway.protocol import MOST_BYTES, FastPathProtocol, FastRequest
from load_tests.open_loop import client
from tests.conftest import PATIENCE_S

LONG, FAST = b"long", b"fast"


@dataclass
class Application:
    """Answers which way a request went, and its body."""

    taken: list[FastRequest] = field(default_factory=list)
    gone: int = 0
    holds: bool = False
    """Whether answers of the fast path wait for `go_on`."""

    @property
    def fast_path(self) -> Application:
        return self

    def take(self, request: FastRequest) -> bool:
        if request.body == b"fault":
            return False
        self.taken.append(request)
        request.drop = self.dropped
        if not self.holds:
            asyncio.get_running_loop().call_soon(self.answer, request)
        return True

    def answer(self, request: FastRequest) -> None:
        request.answer(json_answer(200, FAST + request.body, request.id))

    def dropped(self, reason: Exception) -> None:
        self.gone += 1

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.gone += 1
                return
            body += message["body"]
            more = message["more_body"]
        answer = json_answer(200, LONG + body, "id")
        await send({"type": "http.response.start", "status": 200, "headers": list(answer.headers)})
        await send({"type": "http.response.body", "body": answer.body})


@contextlib.asynccontextmanager
async def listening(app: Application, **options: Any) -> AsyncIterator[tuple[uvicorn.Server, socket.socket]]:
    """A server with our protocol, and the socket that it listens on."""
    options = {"http": FastPathProtocol, "lifespan": "off", "log_config": None, "access_log": False, **options}
    config = uvicorn.Config(app, **options)
    server = uvicorn.Server(config)
    with socket.create_server((client.HOST, 0)) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        while not server.started:
            await asyncio.sleep(0)
        yield server, listener
        server.should_exit = True
        await serving


class Caller:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, listener: socket.socket) -> Caller:
        return cls(*await asyncio.open_connection(*listener.getsockname()))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def body(self) -> bytes:
        """Of the next answer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        (length,) = (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"content-length"))
        return await self.reader.readexactly(length)

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()

    async def rest(self) -> bytes:
        """All until the server closes."""
        return await self.reader.read()


def run(scenario: Callable[[Application, Caller], Any], **options: Any) -> Application:
    app = Application()

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), listening(app, **options) as (_, listener):
            caller = await Caller.connect(listener)
            await scenario(app, caller)
            await caller.close()

    asyncio.run(main())
    return app


REQUESTS: dict[str, tuple[bytes, bytes]] = {
    "plain": (client.request(b"{}"), FAST + b"{}"),
    "without a body": (client.request(b""), FAST),
    "at the limit": (client.request(b"x" * MOST_BYTES), FAST + b"x" * MOST_BYTES),
    "over the limit": (client.request(b"x" * (MOST_BYTES + 1)), LONG + b"x" * (MOST_BYTES + 1)),
    "not taken": (client.request(b"fault"), LONG + b"fault"),
    "another path": (client.request(b"{}", path="/feedback"), LONG + b"{}"),
    "a query": (client.request(b"{}", path="/predict?a=b"), LONG + b"{}"),
    "another method": (b"GET /predict HTTP/1.1\r\nHost: a\r\n\r\n", LONG),
    "a trace": (client.request(b"{}", {"traceparent": "00-1"}), LONG + b"{}"),
    "another type": (client.request(b"{}", {"Content-Type": "text/plain"}), LONG + b"{}"),
    "a trailer": (
        b"POST /predict HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nExpect: 100-continue\r\n\r\n",
        LONG + b"{}",
    ),
    "a header twice": (client.request(b"{}", {"X-A": "1", "x-a": "2"}), LONG + b"{}"),
    "chunks": (
        b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        LONG + b"{}",
    ),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_goes_its_way(name: str) -> None:
    data, expected = REQUESTS[name]

    async def scenario(app: Application, caller: Caller) -> None:
        for _ in range(2):
            await caller.send(data)
            assert await caller.body() == expected

    run(scenario)


@pytest.mark.parametrize(
    "data",
    [
        client.request(b"{}", {"Connection": "close"}),
        client.request(b"{}").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)
def test_a_connection_that_is_to_end_goes_the_long_way_and_ends(data: bytes) -> None:
    async def scenario(app: Application, caller: Caller) -> None:
        await caller.send(data)
        answer = await caller.rest()
        assert answer.endswith(LONG + b"{}")
        assert b"connection: close" in answer

    run(scenario)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_however_requests_are_cut_into_pieces_each_is_answered_in_its_turn(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=6))
    stream = b"".join(REQUESTS[name][0] for name in chosen)
    cuts = sorted(data.draw(st.sets(st.integers(1, len(stream) - 1), max_size=8)))
    waits = data.draw(st.lists(st.booleans(), min_size=len(cuts) + 1, max_size=len(cuts) + 1))

    async def scenario(app: Application, caller: Caller) -> None:
        reading = asyncio.create_task(all_bodies(caller))
        for start, stop, is_slow in zip([0, *cuts], [*cuts, len(stream)], waits, strict=True):
            await caller.send(stream[start:stop])
            await asyncio.sleep(0.002 if is_slow else 0)
        without_the_way = [body.removeprefix(FAST).removeprefix(LONG) for body in await reading]
        assert without_the_way == [REQUESTS[name][1].removeprefix(FAST).removeprefix(LONG) for name in chosen]

    async def all_bodies(caller: Caller) -> list[bytes]:
        return [await caller.body() for _ in chosen]

    run(scenario)


def test_a_body_that_comes_after_its_head_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causeway.protocol.WAIT_S", PATIENCE_S)

    async def scenario(app: Application, caller: Caller) -> None:
        head, body = client.request(b"{}").split(b"{}")
        await caller.send(head)
        await asyncio.sleep(0.01)  # so that it comes apart; the way is the same if it does not
        await caller.send(body + b"{}")
        assert await caller.body() == FAST + b"{}"

    assert len(run(scenario).taken) == 1


def test_a_body_that_does_not_come_soon_goes_the_long_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causeway.protocol.WAIT_S", 0.0)
    has_begun = asyncio.Event()
    begin = FastPathProtocol._begin_the_long_way

    def begin_and_tell(self: FastPathProtocol, *began: float) -> None:
        begin(self, *began)
        has_begun.set()

    monkeypatch.setattr(FastPathProtocol, "_begin_the_long_way", begin_and_tell)

    async def scenario(app: Application, caller: Caller) -> None:
        data = client.request(b"{}")
        await caller.send(data[:-1])
        await has_begun.wait()
        await caller.send(data[-1:])
        assert await caller.body() == LONG + b"{}"

    assert run(scenario).taken == []


def test_a_request_that_comes_before_the_answer_to_another_waits_for_it() -> None:
    async def scenario(app: Application, caller: Caller) -> None:
        app.holds = True
        await caller.send(client.request(b"1") + client.request(b"2") + client.request(b"fault"))
        while not app.taken:
            await asyncio.sleep(0)
        app.holds = False
        app.answer(app.taken[0])
        assert [await caller.body() for _ in range(3)] == [FAST + b"1", LONG + b"2", LONG + b"fault"]
        await caller.send(client.request(b"4"))
        assert await caller.body() == FAST + b"4"

    run(scenario)


@pytest.mark.parametrize("sent", [b"{}", b"{"])
def test_who_hangs_up_is_let_go(sent: bytes) -> None:
    async def scenario(app: Application, caller: Caller) -> None:
        app.holds = True
        data = client.request(b"{}")
        await caller.send(data[: len(data) - 2 + len(sent)])
        while not app.taken and sent == b"{}":
            await asyncio.sleep(0)
        await caller.close()
        while not app.gone:
            await asyncio.sleep(0)
        for request in app.taken:
            assert request.is_gone()
            app.answer(request)  # goes nowhere, and hurts nobody

    assert run(scenario).gone == 1


def test_a_server_that_ends_waits_for_a_body_whose_head_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causeway.protocol.WAIT_S", PATIENCE_S)
    waits, wait = asyncio.Event(), FastPathProtocol.data_received

    def receive(self: FastPathProtocol, data: bytes) -> None:
        wait(self, data)
        waits.set()

    monkeypatch.setattr(FastPathProtocol, "data_received", receive)

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), listening(Application()) as (server, listener):
            caller = await Caller.connect(listener)
            data = client.request(b"{}")
            await caller.send(data[:-2])
            await waits.wait()
            server.should_exit = True
            while not server.server_state.tasks:
                await asyncio.sleep(0)
            await caller.send(data[-2:])
            answer = await caller.rest()
            assert answer.endswith(LONG + b"{}")
            assert b"connection: close" in answer
            await caller.close()

    asyncio.run(main())


def test_the_head_of_a_request_that_goes_the_long_way_is_handed_over_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("causeway.protocol.WAIT_S", PATIENCE_S)

    async def scenario(app: Application, caller: Caller) -> None:
        data = client.request(b"{}", {"Expect": "100-continue"})
        await caller.send(data[:-2])
        assert await caller.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await caller.send(data[-2:])
        assert await caller.body() == LONG + b"{}"

    run(scenario)


def test_a_connection_that_has_ended_keeps_nothing() -> None:
    kept: list[weakref.ref[Any]] = []
    made = FastPathProtocol.connection_made

    class Remembered(FastPathProtocol):
        def connection_made(self, transport: Any) -> None:
            kept.append(weakref.ref(self))
            made(self, transport)

    async def main() -> None:
        app = Application()
        async with asyncio.timeout(PATIENCE_S), listening(app, http=Remembered) as (_, listener):
            caller = await Caller.connect(listener)
            await caller.send(client.request(b"{}"))
            assert await caller.body() == FAST + b"{}"
            await caller.close()
            app.taken.clear()
            while any(reference() is not None for reference in kept):
                await asyncio.sleep(0)

    gc.disable()
    try:
        asyncio.run(main())
        assert len(kept) == 1
    finally:
        gc.enable()


def test_who_sends_and_sends_and_never_reads_is_not_read_any_more() -> None:
    async def main() -> None:
        app = Application()
        async with asyncio.timeout(PATIENCE_S), listening(app) as (server, listener):
            app.holds = True
            caller = await Caller.connect(listener)
            sending = asyncio.create_task(caller.send(client.request(b"x" * MOST_BYTES) * 2000))
            while not app.taken:
                await asyncio.sleep(0)
            (connection,) = server.server_state.connections
            n_answered = 0
            while not sending.done() and n_answered < 50:
                n_waiting = len(cast(FastPathProtocol, connection).pipeline)
                assert n_waiting < 100
                app.holds = False
                if app.taken and not app.taken[-1].response_complete:
                    app.answer(app.taken[-1])
                await caller.body()
                n_answered += 1
            assert not sending.done()
            sending.cancel()
            caller.writer.transport.abort()

    asyncio.run(main())


def test_a_server_that_ends_answers_what_it_has_taken_and_closes() -> None:
    app = Application(holds=True)

    async def main() -> None:
        async with asyncio.timeout(PATIENCE_S), listening(app) as (server, listener):
            caller, idle = await Caller.connect(listener), await Caller.connect(listener)
            await caller.send(client.request(b"{}"))
            while not app.taken:
                await asyncio.sleep(0)
            server.should_exit = True
            assert await idle.rest() == b""
            app.answer(app.taken[0])
            answer = await caller.rest()
            assert answer.endswith(FAST + b"{}")
            assert b"connection: close" in answer
            await caller.close()
            await idle.close()

    asyncio.run(main())


@pytest.mark.parametrize("data", [b"{}", b"fault"])
def test_an_idle_connection_is_closed_and_one_that_is_used_is_not(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    looked, look = [], FastPathProtocol.timeout_keep_alive_handler

    def look_and_tell(self: FastPathProtocol) -> None:
        looked.append(self._idle_since)
        look(self)

    monkeypatch.setattr(FastPathProtocol, "timeout_keep_alive_handler", look_and_tell)

    async def scenario(app: Application, caller: Caller) -> None:
        while len(looked) < 2:  # it was used meanwhile
            await caller.send(client.request(data))
            assert (await caller.body()).endswith(data)
        app.holds = True
        await caller.send(client.request(b"{}"))
        n_looked = len(looked)
        while len(looked) == n_looked:
            await asyncio.sleep(0)
        assert looked[-1] is None  # a request is being answered
        app.answer(app.taken[-1])
        assert await caller.body() == FAST + b"{}"
        assert await caller.rest() == b""

    run(scenario, timeout_keep_alive=0.2)


def test_a_request_that_came_while_the_loop_was_busy_is_answered_though_the_connection_was_idle_for_long() -> None:
    with socket.socket() as patient:
        patient.setblocking(False)

        class Busy(Application):
            """Has an idle connection's next request come while it is busy with another's."""

            def take(self, request: FastRequest) -> bool:
                if request.body == b"{1}":
                    patient.send(client.request(b"{2}"))
                    time.sleep(0.4)
                return super().take(request)

        async def main() -> None:
            loop = asyncio.get_running_loop()
            async with asyncio.timeout(PATIENCE_S), listening(Busy(), timeout_keep_alive=0.2) as (_, listener):
                await loop.sock_connect(patient, listener.getsockname())
                other = await Caller.connect(listener)
                await loop.sock_sendall(patient, client.request(b"{0}"))
                assert (await loop.sock_recv(patient, 4096)).endswith(FAST + b"{0}")
                await other.send(client.request(b"{1}"))
                assert (await loop.sock_recv(patient, 4096)).endswith(FAST + b"{2}")
                assert await loop.sock_recv(patient, 4096) == b""  # idle again
                await other.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())


def test_an_answer_has_what_uvicorn_adds() -> None:
    async def scenario(app: Application, caller: Caller) -> None:
        answers = []
        for data in (client.request(b"{}"), client.request(b"fault")):
            await caller.send(data)
            answers.append(await caller.reader.readuntil(b"\r\n\r\n"))
            await caller.reader.readexactly(len(FAST) + (2 if data.endswith(b"{}") else 5))
        fast, long = ([line.split(b":")[0] for line in answer.split(b"\r\n")] for answer in answers)
        assert fast == long
        assert b"date" in fast
        assert b"x-own" in fast

    run(scenario, headers=[("X-Own", "1")])


def test_a_client_that_does_not_read_goes_the_long_way_which_waits_for_it() -> None:
    async def scenario(app: Application, caller: Caller) -> None:
        caller.writer.transport.pause_reading()  # type: ignore[attr-defined]
        n, body = 400, b"x" * MOST_BYTES
        sending = asyncio.create_task(caller.send(client.request(body) * n))
        bodies = 0
        while bodies < n:
            caller.writer.transport.resume_reading()  # type: ignore[attr-defined]
            assert await caller.body() in (FAST + body, LONG + body)
            bodies += 1
        await sending

    run(scenario)
