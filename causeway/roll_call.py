"""Which workers follow a state file, and how far they are: a file for each of them in a folder beside it.

A worker holds a lock on its file, so whoever looks can tell those that live from those that were killed, whose files it
removes. Where the folder cannot be written, as with a mounted ConfigMap, nobody is called, and nobody answers.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from causeway.state import State


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one worker says of itself."""

    pid: int
    serving: State | None
    """What it serves; None where it serves nothing."""
    refused: State | None = None
    """What it was to serve and cannot, where there is such."""
    problem: str | None = None
    """Why it cannot, or why it cannot read the state file."""


class Presence:
    """One worker's place in `folder`, from its first report to its end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._lock: int | None = None

    def report(self, report: Report) -> None:
        """Says it to whoever looks; to nobody where the folder cannot be written."""
        with suppress(OSError):
            if not self.is_listed:
                self._let_go()
            self._folder.mkdir(parents=True, exist_ok=True)
            beside = self._folder / f".{self._name}.new"
            beside.write_bytes(msgspec.json.encode(report))
            beside.replace(self._folder / f"{self._name}.json")
            if self._lock is None:
                # Locked before it has the name that others look for: without a lock it would count as left behind.
                unnamed = self._folder / f".{self._name}.lock"
                self._lock = os.open(unnamed, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                unnamed.replace(self._folder / f"{self._name}.lock")

    @property
    def is_listed(self) -> bool:
        """Whether those who look find the worker: somebody may have removed the folder."""
        if self._lock is None:
            return False
        try:
            return os.path.samestat(os.fstat(self._lock), (self._folder / f"{self._name}.lock").stat())
        except OSError:
            return False

    def leave(self) -> None:
        """Takes the worker off the list."""
        _remove(self._folder / f"{self._name}.lock")
        self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def serving(reports: Iterable[Report]) -> State | None:
    """The latest state that a worker serves; None where none serves any."""
    states = [report.serving for report in reports if report.serving is not None]
    return max(states, key=lambda state: state.revision, default=None)


def call(folder: Path) -> list[Report]:
    """What the living workers say, in the order of their process ids."""
    reports = []
    for lock in folder.glob("[!.]*.lock"):
        if not _is_held(lock):
            _remove(lock)
            continue
        with suppress(OSError, msgspec.DecodeError):  # of a worker that just left, or of another release
            reports.append(msgspec.json.decode(lock.with_suffix(".json").read_bytes(), type=Report))
    return sorted(reports, key=lambda report: report.pid)


def _is_held(lock: Path) -> bool:
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        # Shared, so that several who look at once are not taken for the worker.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _remove(lock: Path) -> None:
    for path in (lock, lock.with_suffix(".json")):
        with suppress(OSError):
            path.unlink()
