"""The operator: changes what a server serves, as the command line does, while somebody else measures.

A server that is operated has a state file of its own, in the scratch folder: no other server follows it, and nothing of
it is left in BENTOML_HOME.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from causeway.operations import By, Done, Operations
from causeway.settings import Settings
from load_tests.bench.peers import Peer
from load_tests.bench.work import Model

STATE_FILE = "CAUSEWAY_STATE_FILE"
BY = By("the benchmark")


def operated(peer: Peer, name: str, folder: Path) -> Peer:
    """`peer` as `name`, with a state file of its own in `folder`."""
    variables = {**peer.variables, STATE_FILE: str(folder / name / "state.json")}
    return replace(peer, name=name, variables=variables)


class Operator:
    """Changes what one server serves; of `versions` the first is champion when it starts."""

    def __init__(self, peer: Peer, versions: Sequence[Model]) -> None:
        settings = Settings(model=versions[0].tag, state_file=peer.variables[STATE_FILE])
        self.done: list[Done] = []
        """The swaps, in their order."""
        self._workers = peer.workers
        self._versions = versions
        self._operations = Operations(settings)

    def swap(self) -> None:
        """Another champion, in turn: promotes the second version, then the third, then rolls back twice."""
        step = len(self.done) % 4
        if step < 2:
            self.done.append(self._operations.promote(self._versions[1 + step].tag, BY))
        else:
            self.done.append(self._operations.rollback(None, BY))

    def swap_back(self) -> None:
        """Swaps on, until the first version is champion again."""
        while len(self.done) % 4:
            self.swap()

    def shadow(self, *, is_on: bool) -> None:
        """The second version as shadow, or none."""
        if is_on:
            self._operations.shadow(self._versions[1].tag, BY)
        elif "shadow" in self._operations.status().state.roles:
            self._operations.stop("shadow", BY)

    def longest_s(self, action: str = "") -> float | None:
        """The longest time from the state's write to the last worker's word, over the swaps by that command.

        None where there were none, or where a worker had no say.
        """
        done = [each for each in self.done if each.change.action.startswith(action)]
        all_said_so = all(each.workers == self._workers for each in done)
        return max(each.seconds for each in done) if done and all_said_so else None


@contextmanager
def after(seconds: float, action: Callable[[], object]) -> Iterator[None]:
    """Does it in a thread, `seconds` after the context begins; its end waits for that, and raises what it raised."""

    def act() -> None:
        time.sleep(seconds)
        action()

    with ThreadPoolExecutor(1) as pool:
        acted = pool.submit(act)
        yield
    acted.result()
