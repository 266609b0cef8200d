"""The server under load: one that is started for it, with a state of its own, or one that runs already."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from load_tests import machine
from load_tests.circumstances import ROOT

READY_S = 60
"""How long a server may take until it is ready."""

STOP_S = 20
"""How long it may take to end before it is killed."""

LAST_LINES = 6
"""Of a log, when its server has failed."""


class ServerGone(Exception):
    """The server did not start, ended, or does not listen any more; says which."""


@dataclass(frozen=True)
class Target:
    """What to load."""

    url: str | None = None
    """A server that runs; None: one is started."""
    model: str = "fraud:latest"
    """What the one that is started serves."""
    is_dear: bool = False
    """Whether it is a forest that takes milliseconds a row instead."""
    workers: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)
    """CAUSEWAY_* for it."""


@dataclass(frozen=True)
class Server:
    """A server under load, and what can be seen of it."""

    url: str
    roots: tuple[int, ...] = ()
    """Processes that are it, with all that descend from them; none where it is elsewhere."""
    started: Process | None = None

    @property
    def pids(self) -> list[int]:
        """Its processes that live."""
        return sorted({pid for root in self.roots for pid in machine.tree(root)})

    def check(self) -> None:
        """Raises `ServerGone` where it has ended, or its port is closed."""
        if self.started and not self.started.is_running:
            raise ServerGone(f"the server {self.started.last_words()}")
        if is_refused(self.url):
            raise ServerGone(f"nothing listens at {self.url} any more")


class Process:
    """A server's process on `cores`, started; `ask_to_end` and `end` end it with all its children.

    Its settings are its defaults, whatever the shell has set, and those of `variables`.
    """

    def __init__(self, command: Iterable[str], cores: Iterable[int], variables: Mapping[str, str], log: Path) -> None:
        self._log = log
        ours = ("BENTOML_CONFIG", "CAUSEWAY_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        as_served = {"BENTOML_DO_NOT_TRACK": "true", "OMP_WAIT_POLICY": "PASSIVE", "ORT_DISABLE_TELEMETRY": "1"}
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                machine.pinned(cores, command),
                cwd=ROOT,
                env={**inherited, **as_served, **variables},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def pids(self) -> list[int]:
        """Its process and all that descend from it."""
        return machine.tree(self.pid)

    @property
    def is_running(self) -> bool:
        """Whether its first process has not ended."""
        return self._process.poll() is None

    def fault_until(self, is_ready: Callable[[], bool]) -> str | None:
        """Waits until it is ready; in a sentence without its subject, why it never was."""
        deadline = time.monotonic() + READY_S
        while self.is_running and time.monotonic() < deadline:
            with suppress(OSError):
                if is_ready():
                    return None
            time.sleep(0.1)
        return self.last_words()

    def last_words(self) -> str:
        """How it ended, or that it gives no answer, and the last lines of its log."""
        how = f"gave no answer in {READY_S} s" if self.is_running else f"ended with {self._process.returncode}"
        lines = self._log.read_text(errors="replace").split("\n")
        return f"{how}: {' | '.join(line.strip() for line in lines[-LAST_LINES:] if line.strip())}"

    def ask_to_end(self) -> None:
        """SIGTERM; `end` waits for it."""
        self._ending = self.pids
        self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Waits until it has ended, and kills what has not after a while."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        for pid in self._ending:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()


@contextmanager
def started(target: Target, cores: Iterable[int], scratch: Path, log: Path) -> Iterator[Server]:
    """`bentoml serve` of this checkout on `cores`, ready. Raises `ServerGone` where it never is.

    Its state file and prediction log are in `scratch`, so that it follows no other server and leaves nothing.
    """
    port = machine.free_port()
    url = f"http://127.0.0.1:{port}"
    command = (str(Path(sys.executable).with_name("bentoml")), "serve", "--host", "127.0.0.1", "--port", str(port))
    variables = {
        "CAUSEWAY_MODEL": target.model,
        "CAUSEWAY_WORKERS": str(target.workers),
        "CAUSEWAY_STATE_FILE": str(scratch / "state.json"),
        **target.settings,
    }
    process = Process(command, cores, variables, log)
    try:
        why = process.fault_until(lambda: _is_ready(url))
        if why is not None:
            raise ServerGone(f"the server {why}")
        yield Server(url, (process.pid,), process)
    finally:
        process.ask_to_end()
        process.end()


def running(url: str) -> Server:
    """The server at `url`. Raises `ServerGone` where nothing listens there.

    Its processes are known where it is on this machine: those that listen on the port, and their children. Where a
    proxy listens for it, that is the proxy.
    """
    address = urlsplit(url)
    if not address.hostname or is_refused(url):
        raise ServerGone(f"nothing listens at {url}")
    return Server(url, _listeners(_port(url)) if _is_here(address.hostname) else ())


def is_refused(url: str) -> bool:
    """Whether the port is closed, or its machine unknown; one that is too busy to answer at once is neither."""
    try:
        socket.create_connection((urlsplit(url).hostname, _port(url)), timeout=5).close()
    except TimeoutError:
        return False
    except OSError:
        return True
    return False


def _is_ready(url: str) -> bool:
    with urllib.request.urlopen(f"{url}/readyz", timeout=5) as answer:
        return bool(answer.status == 200)


def _port(url: str) -> int:
    return urlsplit(url).port or 80


def _is_here(host: str) -> bool:
    """Whether it is an address of this machine."""
    import psutil  # type: ignore[import-untyped]  # the benchmark shares this module, and does without

    ours = {address.address for addresses in psutil.net_if_addrs().values() for address in addresses}
    return socket.gethostbyname(host) in ours


def _listeners(port: int) -> tuple[int, ...]:
    """Processes of ours that listen on a TCP port."""
    import psutil

    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            listening = (each for each in process.net_connections("tcp") if each.status == psutil.CONN_LISTEN)
            if any(each.laddr.port == port for each in listening):
                found.append(process.pid)
    return tuple(found)
