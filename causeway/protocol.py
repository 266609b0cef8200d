"""Plain requests to /predict from the HTTP parser to the batcher, and their answers to the connection, by a call each.

uvicorn makes a task of every request, and messages of its parts; with a cheap model that is half of all the work. Here
a POST /predict that has arrived as a whole, with a short body and nothing special in its head, is offered to a `Taker`
first. What that does not take, and every other request, goes uvicorn's way, to the ASGI application.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sized
from typing import Any, Protocol

from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from causeway import errors, tracing
from causeway.asgi import BEGAN, Answer, Headers, new_request_id
from causeway.monitoring import batch

PATH = b"/predict"

MOST_BYTES = 16 * 1024
"""A longer body goes the long way."""

WAIT_S = 0.01
"""How long the body is waited for: some clients send it after the head. What takes longer goes the long way."""

LONG_WAY = frozenset((b"expect", b"upgrade", b"transfer-encoding", b"traceparent"))
"""Headers that only the long way understands, or refuses before the body comes."""

_OK = STATUS_LINE[200]
_HEAD = b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\nserver-timing: %b\r\n"


class Taker(Protocol):
    """Who answers short requests."""

    def take(self, request: FastRequest) -> bool:
        """Begins to answer; False, with nothing done, where the request is to go the long way."""


class FastRequest:
    """A whole POST /predict, until it is answered.

    To uvicorn it is the connection's cycle of request and response: requests that come meanwhile wait for its end.
    """

    __slots__ = (
        "_connection",
        "answered",
        "arrived",
        "body",
        "disconnected",
        "drop",
        "headers",
        "id",
        "keep_alive",
        "response_complete",
        "started",
        "trace",
        "variant",
    )

    def __init__(self, connection: FastPathProtocol, headers: Headers, body: bytes, started: float) -> None:
        """`started`: when its head was there, on `time.perf_counter`."""
        self.arrived = time.perf_counter()
        self.started = started
        self.id = new_request_id()
        self.headers = headers
        self.body = body
        self.trace: tracing.Trace | None = None
        self.variant: tuple[str, str] | None = None
        self.answered: batch.Answer | None = None
        self.drop: Callable[[Exception], None] | None = None
        """Ends the work for it."""
        self.keep_alive = True
        self.disconnected = False
        self.response_complete = False
        self._connection: FastPathProtocol | None = connection
        """None once it is answered: to one another they would be a reference cycle."""

    @property
    def message_event(self) -> FastRequest:
        """What uvicorn sets once the client has hung up."""
        return self

    def set(self) -> None:
        """Drops what nobody waits for any more."""
        if self.disconnected and self.drop is not None:
            self.drop(errors.ClientGone())

    def is_gone(self) -> bool:
        """Whether the client is known to have hung up."""
        return self.disconnected

    def forget(self) -> None:
        """Lets go of what was asked and answered: the connection keeps its last request until the next one."""
        self.body, self.headers, self.answered, self.drop = b"", {}, None, None

    def answer(self, answer: Answer) -> None:
        """Sends any answer."""
        head = b"".join([b"%b: %b\r\n" % header for header in answer.headers])
        self._send(STATUS_LINE[answer.status], head, answer.body)

    def answer_json(self, body: bytes, timing: bytes) -> None:
        """Sends a 200."""
        self._send(_OK, _HEAD % (len(body), self.id.encode(), timing), body)

    def _send(self, status_line: bytes, head: bytes, body: bytes) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            raise RuntimeError("it has been answered")
        self.response_complete = True
        connection.send(status_line, head, body, keep_alive=self.keep_alive)


class FastPathProtocol(HttpToolsProtocol):
    """A connection."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)
        self._taker: Taker = config.app.fast_path
        self._body: bytes | None = None
        """Of a request that may take the fast path, as far as it has come."""
        self._head: Headers = {}
        """Its headers."""
        self._began = 0.0
        self._waiting: asyncio.TimerHandle | None = None
        self._idle_since: float | None = None
        """On the loop's clock; None while there is something to do."""
        self._usual: tuple[bytes, object] = b"", None

    def data_received(self, data: bytes) -> None:
        """Takes what has come."""
        super().data_received(data)
        if self._body is not None and self._waiting is None:
            self._waiting = self.loop.call_later(WAIT_S, self._go_the_long_way)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """There is a connection."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)

    def shutdown(self) -> None:
        """The server ends: what has come is answered, and the connection closed."""
        if self._body is not None:
            self._go_the_long_way()
        super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """There is no connection any more."""
        if self._body is not None:  # there, who waits for it is told, and counted
            self._go_the_long_way()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()

    def on_message_begin(self) -> None:
        """A request begins."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """A request's head is there."""
        headers = dict(self.headers)
        if (
            self.url == PATH
            and (self.cycle is None or self.cycle.response_complete)
            and self.parser.get_method() == b"POST"
            and self.parser.should_keep_alive()
            and (b"connection" not in headers or self.parser.get_http_version() == "1.1")  # 1.0 is kept only if it asks
            and len(headers) == len(self.headers)
            and LONG_WAY.isdisjoint(headers)
            and int(headers.get(b"content-length", 0)) <= MOST_BYTES
            and headers.get(b"content-type", b"application/json").startswith(b"application/json")
            and not self.flow.write_paused
        ):
            self._began = time.perf_counter()
            self._head = headers
            self._body = b""
        else:
            self._begin_the_long_way()

    def on_body(self, body: bytes) -> None:
        """A part of its body is there."""
        if self._body is None:
            super().on_body(body)
        else:
            self._body += body

    def on_message_complete(self) -> None:
        """All of it is there."""
        if self._body is not None:
            before, request = self.cycle, FastRequest(self, self._head, self._body, self._began)
            self.cycle = request  # type: ignore[assignment]  # has what uvicorn asks of one
            if self._taker.take(request):
                self._body = None
                self._wait_no_longer()
                return
            self.cycle = before
            self._go_the_long_way()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer has been sent."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._close_if_idle_after(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Closes a connection that was idle for so long. One timer does for many requests."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left_s = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_s > 0:
            self._close_if_idle_after(left_s)
        else:  # not before the loop has seen what came while it was busy: timers come first in its turns
            self.loop.call_soon(self.loop.call_soon, self._close_if_still_idle)

    def send(self, status_line: bytes, head: bytes, body: bytes, *, keep_alive: bool) -> None:
        """Sends an answer, and goes on with what has come meanwhile; `head`: the headers that uvicorn does not add."""
        if self.transport.is_closing():
            return
        closes = b"" if keep_alive else b"connection: close\r\n"
        self.transport.write(b"%b%b%b%b\r\n%b" % (status_line, self._usual_headers(), head, closes, body))
        if not keep_alive:
            self.transport.close()
        self.on_response_complete()

    def _close_if_idle_after(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _close_if_still_idle(self) -> None:
        if self._idle_since is not None:
            super().timeout_keep_alive_handler()

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def _usual_headers(self) -> bytes:
        """What uvicorn adds to every answer, as the date, which is another one each second."""
        headers = self.server_state.default_headers
        if headers is not self._usual[1]:
            self._usual = b"".join(b"%b: %b\r\n" % header for header in headers), headers
        return self._usual[0]

    def _go_the_long_way(self) -> None:
        """Hands the request over to uvicorn, as far as it has come."""
        body, self._body = self._body, None
        self._wait_no_longer()
        self._begin_the_long_way(self._began)
        if body:
            super().on_body(body)

    def _wait_no_longer(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _begin_the_long_way(self, began: float | None = None) -> None:
        url, expects, headers = self.url, self.expect_100_continue, self.headers
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the same list is in the scope
        if began is not None:
            self.scope[BEGAN] = began  # type: ignore[literal-required]
        super().on_headers_complete()


class _Flow(FlowControl):
    """Reads no more while requests of the connection wait: else a client that never reads could fill the memory."""

    def __init__(self, transport: asyncio.Transport, waiting: Sized) -> None:
        super().__init__(transport)
        self._waiting = waiting

    def resume_reading(self) -> None:
        if not self._waiting:
            super().resume_reading()
