"""A real server in a thread that answers as a test says."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count


@dataclass(frozen=True)
class Reply:
    """What goes back."""

    status: int = 200
    body: bytes = b"{}"
    headers: Mapping[str, str] = field(default_factory=dict)


HANGS_UP = None
Answering = Callable[[int, bytes], Reply | None]
"""The reply to a request, by how many came before and by its body."""


@dataclass
class Served:
    """A server on the loopback."""

    port: int = 0
    requests: int = 0
    """That it got."""
    connections: list[socket.socket] = field(default_factory=list)
    """That were opened to it, and that it did not hang up."""

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def hang_up(self) -> None:
        """Closes all connections."""
        while self.connections:
            self.connections.pop().shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(answering: Answering) -> Iterator[Served]:
    """A server, until the context ends."""
    served, numbers = Served(), count()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            served.connections.append(self.connection)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            number = next(numbers)
            served.requests = number + 1
            reply = answering(number, body)
            if reply is HANGS_UP:
                self.close_connection = True
                return
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            """Nothing: clients hang up here."""

    with Server(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            served.port = server.server_address[1]
            yield served
        finally:
            server.shutdown()
            thread.join()


def stalling(seconds: float) -> Answering:
    """Answers at once, but for a while after the first request nobody."""
    over_s: list[float] = []

    def answer(_: int, __: bytes) -> Reply:
        over_s.append(time.monotonic() + seconds)
        time.sleep(max(0.0, over_s[0] - time.monotonic()))
        return Reply()

    return answer
