"""A contestant's processes: started on their core, ready, measured, ended."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from load_tests import machine
from load_tests.bench.peers import Peer
from load_tests.bench.work import Model
from load_tests.open_loop import client
from load_tests.served import Process


class Server(Process):
    """One contestant, running."""

    def __init__(self, peer: Peer, model: Model, cores: Iterable[int], log: Path) -> None:
        self.peer = peer
        self.serves = peer, model.tag
        self.port = machine.free_port()
        self.url = f"http://{client.HOST}:{self.port}"
        command = [part.format(port=self.port) for part in peer.command]
        variables = {"BENCH_FOLDER": str(model.folder), "CAUSEWAY_MODEL": model.tag, **peer.variables}
        super().__init__(command, cores, variables, log)

    def fault_at_start(self, body: bytes) -> str | None:
        """Waits until it answers `body` with anything but 503; in a sentence, why it never did."""
        why = self.fault_until(lambda: client.ask(self.port, client.request(body)).status not in (0, 503))
        return why and f"it {why}"
