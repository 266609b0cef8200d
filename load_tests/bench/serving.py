"""A contestant's processes: started on their core, ready, measured, ended."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from load_tests import machine
from load_tests.bench.peers import Peer
from load_tests.bench.work import ROOT, Model
from load_tests.open_loop import client

READY_S = 60
"""How long a contestant may take until it answers."""

STOP_S = 20
"""How long it may take to end before it is killed."""


class Server:
    """One contestant, running; `ask_to_end` and `end` end it with all its children."""

    def __init__(self, peer: Peer, model: Model, cores: Iterable[int], log: Path) -> None:
        self.peer = peer
        self.serves = peer, model.tag
        self.port = machine.free_port()
        self._log = log
        command = [part.format(port=self.port) for part in peer.command]
        # The contestants' settings are their defaults, whatever the shell has set.
        ours = ("BENTOML_CONFIG", "CAUSEWAY_")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        environment = {
            **inherited,
            "BENCH_FOLDER": str(model.folder),
            "BENTOML_DO_NOT_TRACK": "true",
            "OMP_WAIT_POLICY": "PASSIVE",
            "ORT_DISABLE_TELEMETRY": "1",
            "CAUSEWAY_MODEL": model.tag,
            **peer.variables,
        }
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                machine.pinned(cores, command),
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pids(self) -> list[int]:
        """Its process and all that descend from it."""
        return machine.tree(self._process.pid)

    @property
    def is_running(self) -> bool:
        """Whether its first process has not ended."""
        return self._process.poll() is None

    def fault_at_start(self, body: bytes) -> str | None:
        """Waits until it answers `body` with anything but 503; in a sentence, why it never did."""
        deadline = time.monotonic() + READY_S
        while self.is_running and time.monotonic() < deadline:
            with suppress(OSError):
                if client.ask(self.port, client.request(body)).status not in (0, 503):
                    return None
            time.sleep(0.1)
        why = f"gave no answer in {READY_S} s" if self.is_running else f"ended with {self._process.returncode}"
        lines = self._log.read_text(errors="replace").split("\n")
        return f"it {why}: {' | '.join(line.strip() for line in lines[-6:] if line.strip())}"

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
