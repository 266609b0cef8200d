"""The state in its file, and the audit log beside it.

    state.json      what is deployed (`causeway.state`); replaced as a whole, never written into
    history.jsonl   one line for each change, who made it and why; written before the state, so that it explains any
    lock            held by who changes the state, from looking at it to the last worker's word

A process that is killed between the two leaves the old state, and a last line that was never carried out. A line that
was cut off by it was never followed by anything: it is taken away by the next change.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec

from causeway.errors import ChangeConflict, StateBroken, StateUnusable
from causeway.state import State


class Change(msgspec.Struct, frozen=True):
    """A line of the audit log."""

    time: datetime
    who: str
    action: str
    """The command, as its user would write it."""
    why: str
    before: State
    after: State

    @property
    def revision(self) -> int:
        """Of the state that it led to."""
        return self.after.revision


class StateFile:
    """The state file at `path`, with its audit log and its lock in the same folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = path.parent
        self._history = self.folder / "history.jsonl"

    def read(self) -> State | None:
        """What it says; None where there is no file. Raises `StateBroken`."""
        try:
            return State.from_json(self.path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StateBroken(f"it cannot be read: {exc.strerror}") from exc

    def mark(self) -> tuple[int, ...] | None:
        """Changes whenever the file does; None where there is none. Looks through links, as those of a ConfigMap."""
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size

    def last_good(self) -> State | None:
        """The last state that was in force, by the audit log; None where it has none. Raises `StateBroken`."""
        changes = self.history()
        return changes[-1].after if changes else None

    def history(self) -> list[Change]:
        """What was changed, from the first change on; without what was never carried out.

        Raises `StateBroken` where it cannot be read, or a line in the middle makes no sense.
        """
        try:
            lines = self._history.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise StateBroken(f"{self._history.name} cannot be read: {exc.strerror}") from exc
        changes: list[Change] = []
        for number, line in enumerate(lines):
            if not line.endswith(b"\n"):
                break
            try:
                change = msgspec.json.decode(line, type=Change)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                raise StateBroken(f"line {number + 1} of {self._history.name}: {exc}") from exc
            if changes and changes[-1].before == change.before:
                changes.pop()  # killed before the state was replaced: the next change began where that one had
            changes.append(change)
        with suppress(StateBroken):
            state = self.read()
            if changes and changes[-1].after != state and changes[-1].before == (state or changes[-1].before):
                changes.pop()
        return changes

    @contextmanager
    def changing(self, who: str, action: str) -> Iterator[None]:
        """Nobody else changes the state meanwhile. Raises `ChangeConflict` where somebody does, or `StateUnusable`."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as exc:
            raise StateUnusable(str(self.path), exc.strerror or "it cannot be locked") from exc
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(lock, 0)
                os.pwrite(lock, f"{who}\n{action}".encode(), 0)
            except BlockingIOError:
                other, _, doing = os.pread(lock, 4096, 0).decode(errors="replace").partition("\n")
                raise ChangeConflict(other or "somebody", doing or "a change") from None
            except OSError as exc:
                raise StateUnusable(str(self.path), exc.strerror or "it cannot be locked") from exc
            yield
            os.ftruncate(lock, 0)
        finally:
            os.close(lock)

    def write(self, change: Change) -> None:
        """Carries out a change: its line in the audit log, then the state. For the holder of the lock.

        Raises `StateUnusable` where the disk does not take it; then the state is as it was.
        """
        try:
            self._append(msgspec.json.encode(change) + b"\n")
            self._replace(change.after.to_json())
        except OSError as exc:
            raise StateUnusable(str(self.path), exc.strerror or "it cannot be written") from exc

    def expire(self, now: datetime) -> None:
        """Writes down that leases have run out, where they have. Does nothing where somebody else changes the state."""
        with suppress(ChangeConflict, StateUnusable), self.changing("the lease", "it runs out"):
            self.end_leases(now)

    def end_leases(self, now: datetime) -> None:
        """`expire` for the holder of the lock, before a change: so every change begins where the one before it ended.

        Raises `StateUnusable`.
        """
        with suppress(StateBroken):
            before = self.read()
            after = before and before.without_expired(now)
            if before and after and after is not before:
                over = ", ".join(f"{role} {before.roles[role]}" for role in before.roles.keys() - after.roles.keys())
                self.write(Change(now, "the lease", f"stop {over}", "it ran out", before, after))

    def _append(self, line: bytes) -> None:
        with self._history.open("a+b") as log:
            log.seek(0)
            whole = log.read()
            log.truncate(whole.rfind(b"\n") + 1)
            log.write(line)
            log.flush()
            os.fsync(log.fileno())

    def _replace(self, data: bytes) -> None:
        beside = self.path.with_name(f".{self.path.name}.new")
        with beside.open("wb") as new:
            new.write(data)
            new.flush()
            os.fsync(new.fileno())
        beside.replace(self.path)
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
