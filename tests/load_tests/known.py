"""A server whose service time is known, in a process, and what it is asked."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from load_tests.machine import free_port
from load_tests.traffic import Kind, Request, Traffic, body
from tests.conftest import ROOT, Server, answers, wait_until

ONE_ROW = Traffic((Kind("one", 1, 1.0),), (Request("one", 1, body(np.zeros((1, 15), dtype=np.float32)), {}),))


@contextmanager
def known_server(service_s: float) -> Iterator[Server]:
    """One request at a time, each of one row; it says nothing under /metrics."""
    port = free_port()
    command = [sys.executable, "-m", "load_tests.studies.known_server", str(port), str(service_s), "0", "5"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        server = Server(f"http://127.0.0.1:{port}", process, Path("/dev/null"))
        try:
            wait_until(lambda: answers(server.url), "an answer from the known server", server)
            yield server
        finally:
            process.terminate()
