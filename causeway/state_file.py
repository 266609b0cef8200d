"""The state in its file, and the audit log beside it.

    state.json      what is deployed (`causeway.state`); replaced as a whole, never written into
    history.jsonl   a line for each change, who made it and why, written before the state, so that it explains any; and
                    behind it its revision alone, once the state was written
    lock            held by who changes the state, from looking at it to the last worker's word

A process that is killed between the two leaves the old state, and a line that was never carried out. A line that was
cut off by it was never followed by anything: it is taken away by the next change.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

import msgspec

from causeway.errors import ChangeConflict, StateBroken, StateUnusable
from causeway.state import State

LEASE, SOMEBODY = AUTOMATIC = ("the lease", "somebody")
"""Who changes the state where no operator does: a lease that runs out, and an edit of the file that is seen later."""

MOST_BYTES = 1024 * 1024
"""A state file is never larger."""


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
            # Not to hang on what is no file: nobody would notice a thread that waits for ever.
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)
                data = os.read(descriptor, MOST_BYTES + 1) if is_file else b""
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise StateBroken(f"it cannot be read: {exc.strerror}") from exc
        if not is_file or len(data) > MOST_BYTES:
            raise StateBroken(f"it cannot be read: it is no file of at most {MOST_BYTES} bytes")
        return State.from_json(data)

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

    def last(self) -> Change | None:
        """The last change; None where there was none, or the audit log makes no sense."""
        with suppress(StateBroken):
            changes = self.history()
            return changes[-1] if changes else None
        return None

    def history(self) -> list[Change]:
        """What was changed, from the first change on; without what was never carried out.

        Raises `StateBroken` where it cannot be read, or a line in the middle makes no sense.
        """
        try:
            changes, last = _changes(self._history.read_bytes(), self._history.name)
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise StateBroken(f"{self._history.name} cannot be read: {exc.strerror}") from exc
        return [*changes, last] if last and self._is_in_force(last) else changes

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
            self._append(change)
            self._replace(change.after.to_json())
        except OSError as exc:
            raise StateUnusable(str(self.path), exc.strerror or "it cannot be written") from exc
        with suppress(OSError):
            self._mark_done(change)

    def note_edits(self, now: datetime) -> None:
        """Writes down that somebody changed the state by other means, where they did. For the holder of the lock."""
        with suppress(StateBroken):
            changes, state = self.history(), self.read()
            if changes and state is not None and state != changes[-1].after:
                with suppress(OSError):
                    edit = Change(now, SOMEBODY, f"edit {self.path.name}", "seen later", changes[-1].after, state)
                    self._append(edit)
                    self._mark_done(edit)

    def expire(self, now: datetime) -> None:
        """Writes down that leases have run out, where they have. Does nothing where somebody else changes the state."""
        with suppress(ChangeConflict, StateUnusable), self.changing(LEASE, "it runs out"):
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
                self.write(Change(now, LEASE, f"stop {over}", "it ran out", before, after))

    def _append(self, change: Change) -> None:
        with self._history.open("a+b") as log:
            log.seek(0)
            whole = log.read()
            log.truncate(whole.rfind(b"\n") + 1)
            with suppress(StateBroken):  # a log that makes no sense keeps nobody from rolling back
                _, last = _changes(whole, self._history.name)
                if last and self._is_in_force(last):  # killed after the state was written
                    log.write(b"%d\n" % last.revision)
            log.write(msgspec.json.encode(change) + b"\n")
            log.flush()
            os.fsync(log.fileno())

    def _mark_done(self, change: Change) -> None:
        with self._history.open("ab") as log:
            log.write(b"%d\n" % change.revision)

    def _is_in_force(self, change: Change) -> bool:
        with suppress(StateBroken):
            return self.read() == change.after
        return False

    def _replace(self, data: bytes) -> None:
        target = self.path.resolve()  # a link stays one
        beside = target.with_name(f".{target.name}.new")
        with beside.open("wb") as new:
            new.write(data)
            new.flush()
            os.fsync(new.fileno())
        beside.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _changes(log: bytes, name: str) -> tuple[list[Change], Change | None]:
    """The changes in an audit log that were carried out, and the last one where it does not say so."""
    changes: list[Change] = []
    last: Change | None = None
    for number, line in enumerate(log.splitlines(keepends=True)):
        if not line.endswith(b"\n"):
            break
        try:
            told = msgspec.json.decode(line, type=Change | int)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise StateBroken(f"line {number + 1} of {name}: {exc}") from exc
        if isinstance(told, Change):
            last = told
        elif last is not None and told == last.revision:
            changes.append(last)
            last = None
    return changes, last
