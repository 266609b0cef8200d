"""A server whose latencies are known: one request at a time, in the order they came, and a stall now and then.

`python -m load_tests.studies.known_server 3000 0.002 0.5 5` takes 2 ms for each request at port 3000, and does nothing
for half a second every 5 s, for the first time half a period after the first request came. It waits, and does no work,
so no core is busy. When it is terminated it prints, as JSON, how late its own answers were.
"""

from __future__ import annotations

import asyncio
import json
import re
import selectors
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from load_tests.open_loop.client import HOST

BODY = (
    b'{"predictions": [[0.5]], "model_version": "known:1", "latency_ms": 0, "request_id": "0", "variant": "champion"}'
)
_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Server:
    """What is known of it, in seconds; the stall is interrupted service, which goes on where it was."""

    service_s: float
    stall_s: float
    """0 without stalls."""
    period_s: float
    """From the beginning of a stall to that of the next one; longer than a stall and a service."""

    def line(self) -> Line:
        """Its queue, empty."""
        return Line(self)


@dataclass
class Line:
    """Who comes is served in turn."""

    server: Server
    first_stall_s: float | None = None
    free_s: float = -np.inf

    def enter(self, at_s: float) -> float:
        """When the request that comes at `at_s`, after all others, is answered."""
        if self.first_stall_s is None:
            self.first_stall_s = at_s + self.server.period_s / 2
        begun_s = max(at_s, self.free_s)
        into_s = (begun_s - self.first_stall_s) % self.server.period_s
        stalled_s = max(0.0, self.server.stall_s - into_s)
        is_interrupted = into_s + stalled_s + self.server.service_s > self.server.period_s
        self.free_s = begun_s + stalled_s + self.server.service_s + is_interrupted * self.server.stall_s
        return self.free_s


class Connection(asyncio.Protocol):
    """Of a caller that waits for an answer before it asks again."""

    def __init__(self, line: Line, tell_late: Callable[[float], None]) -> None:
        self._line, self._tell_late = line, tell_late
        self._loop = asyncio.get_running_loop()
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, is_there, body = self._received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if is_there and len(body) >= (int(length[1]) if length else 0):
            self._received = b""
            due_s = self._line.enter(self._loop.time())
            self._loop.call_at(due_s, self._answer, due_s)

    def _answer(self, due_s: float) -> None:
        self._tell_late(self._loop.time() - due_s)
        self._transport.write(_ANSWER)


async def serve(port: int, server: Server) -> list[float]:
    """Serves until it is terminated; by how many seconds each answer was late."""
    line, late_s = server.line(), list[float]()
    loop, is_over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, is_over.set)
    listening = await loop.create_server(lambda: Connection(line, late_s.append), HOST, port, backlog=4_096)
    await is_over.wait()
    listening.close()
    return late_s


def main(port: str, *seconds: str) -> None:
    """Runs the command line. The loop selects as select(2) does: the others round their timers up to milliseconds."""
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selectors.SelectSelector())) as runner:
        late_s = runner.run(serve(int(port), Server(*map(float, seconds))))
    late_ms = 1_000 * np.array(late_s or [np.nan])
    print(json.dumps({"answers": len(late_s), "p50_ms": np.median(late_ms), "p99_ms": np.quantile(late_ms, 0.99)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
