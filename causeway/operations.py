"""Changing what is deployed: validate, write it down, wait until every worker serves it, and undo it where one cannot.

Works on the state file and the model store of this machine; the command line and /admin are two doors to it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from causeway import errors, roll_call, state, store
from causeway.contract import Contract
from causeway.deployment import state_path
from causeway.roll_call import Report
from causeway.settings import Settings
from causeway.state import Extra, Role, State
from causeway.state_file import AUTOMATIC, Change, StateFile
from causeway.tag import is_tag
from causeway.version import ModelVersion

CONVERGED_WITHIN_S = 60.0
"""How long workers may take to load a version before a change is undone."""

FORCED_WITHIN_S = 2.0
"""The same for a change that is forced, and not undone."""

LOOK_S = 0.01
"""How often their reports are looked at meanwhile."""


@dataclass(frozen=True)
class By:
    """Somebody who makes a change, and the reason for the audit log."""

    who: str
    why: str = ""
    began: datetime | None = None
    """When they set about it: what somebody else changed since then, they did not know of. None asks nobody."""


@dataclass(frozen=True)
class Done:
    """A change that was carried out."""

    change: Change
    workers: int
    """How many serve it."""
    seconds: float
    """From the moment that the state was written to the last worker's word."""
    unserved: str | None = None
    """Why a forced change is not served by every worker; None where it is."""


@dataclass(frozen=True)
class Status:
    """What is deployed, and how far the workers are."""

    state: State
    source: str
    """`file`; `workers` or `history`, which know what was in force where it makes no sense; `settings` without one."""
    problem: str | None
    path: str
    workers: Sequence[Report]


@dataclass(frozen=True)
class Listed:
    """A version in the store."""

    tag: str
    role: Role | None
    share: float | None
    """Percent of the requests; None without a role, and for the shadow."""
    created: datetime | None
    average_precision: float | None
    n_bytes: int
    made: str
    """The family that it was trained by, and as what variant: `mlp`, `mlp int8-static`."""
    requests: int | None = None
    """That it answered since the server was started; None where no server said so."""


class Operations:
    """Looks at the deployment that the settings name, and changes it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.file = StateFile(state_path(settings))

    def status(self) -> Status:
        """What is deployed now."""
        workers = roll_call.call(self.file.folder / "workers")
        problem = None
        try:
            current, source = self.file.read(), "file"
            if current is None and self.file.history():
                raise errors.StateBroken("it is gone")
        except errors.StateBroken as exc:
            problem = exc.message
            current, source = roll_call.serving(workers), "workers"
            if current is None:
                kept = self.history()
                if not kept:
                    raise errors.StateUnusable(str(self.file.path), exc.message) from exc
                current, source = kept[-1].after, "history"
        if current is None:
            # A running server knows what `latest` was when it started.
            current, source = roll_call.serving(workers) or self._default(), "settings"
        return Status(current.without_expired(state.now()), source, problem, str(self.file.path), workers)

    def history(self) -> list[Change]:
        """Every change, from the first on. Raises `StateUnusable` where the audit log makes no sense."""
        try:
            return self.file.history()
        except errors.StateBroken as exc:
            raise errors.StateUnusable(str(self.file.path), exc.message) from exc

    def versions(self) -> list[Listed]:
        """What the store has of the deployed models, the newest first."""
        current = self.status().state
        names = {tag.partition(":")[0] for tag in (*current.tags, self._settings.model)}
        roles = current.tags
        listed = []
        for stored in (stored for name in sorted(names) for stored in store.versions(name)):
            role = roles.get(stored.tag)
            share = 100 - current.shared if role == "champion" else current.roles[role].share if role else None
            made = " ".join(stored.labels[name] for name in ("family", "variant") if name in stored.labels)
            quality = stored.average_precision
            listed.append(Listed(stored.tag, role, share, stored.created, quality, stored.n_bytes, made))
        return listed

    def promote(self, tag: str, by: By, *, revision: int | None = None) -> Done:
        """`tag` as champion."""
        tag = found(tag)
        return self._change(f"promote {tag}", lambda before: before.promote(tag), by, revision)

    def rollback(self, tag: str | None, by: By, *, is_forced: bool = False) -> Done:
        """The champion before this one, or `tag`, as champion.

        Forced, even where it takes less than this one does, and even where a worker cannot serve it: `Done.unserved`.
        """
        action = "rollback" if tag is None else f"rollback {tag}"
        return self._change(action, lambda before: before.rollback(tag), by, is_forced=is_forced)

    def canary(
        self, tag: str, share: float, by: By, *, until: datetime | None = None, revision: int | None = None
    ) -> Done:
        """`tag` as canary with `share` percent of the requests, for as long as its lease runs, where it has one."""
        return self._give("canary", tag, share, by, until, revision)

    def challenger(self, tag: str, share: float, by: By) -> Done:
        """`tag` as challenger with `share` percent of the requests."""
        return self._give("challenger", tag, share, by)

    def shadow(self, tag: str, by: By) -> Done:
        """`tag` as shadow."""
        return self._give("shadow", tag, None, by)

    def stop(self, role: Role, by: By, *, revision: int | None = None) -> Done:
        """Nobody in `role`."""
        return self._change(f"stop {role}", lambda before: before.stop(role), by, revision)

    def check_unchanged(self, revision: int) -> None:
        """Raises `ChangeConflict` where somebody has changed the deployment since this revision."""
        now = self.status().state
        if now.revision != revision:
            raise self._overtaken(now)

    def _give(
        self,
        role: Extra,
        tag: str,
        share: float | None,
        by: By,
        until: datetime | None = None,
        revision: int | None = None,
    ) -> Done:
        tag, salt = found(tag), secrets.token_hex(8)
        action = f"{role} {tag}" if share is None else f"{role} {tag} --share {share:g}"
        return self._change(action, lambda before: before.give(role, tag, share, until, salt), by, revision)

    def _change(
        self,
        action: str,
        transition: Callable[[State], State],
        by: By,
        revision: int | None = None,
        *,
        is_forced: bool = False,
    ) -> Done:
        """Carries out a transition; with `revision`, only of the state with that revision.

        Raises `ChangeRefused`, `ChangeConflict`, `VersionUnfit`, `VersionUnknown`, `StateUnusable`, or `ChangeUndone`.
        """
        with self.file.changing(by.who, action):
            self.file.end_leases(state.now())
            self.file.note_edits(state.now())
            before = self.status().state
            if revision is not None and before.revision != revision:
                raise self._overtaken(before)
            if by.began is not None and self._was_changed_since(by.began):
                raise self._overtaken(before)
            after = transition(before)
            _validate(before, after, is_forced=is_forced)
            change = Change(state.now(), by.who, action, by.why, before, after)
            self.file.write(change)
            written = time.monotonic()
            try:
                n_workers = self._converged(after, FORCED_WITHIN_S if is_forced else CONVERGED_WITHIN_S)
            except BaseException as exc:  # also where an operator has no patience
                reason = "it was interrupted" if isinstance(exc, KeyboardInterrupt) else str(exc) or type(exc).__name__
                if is_forced and isinstance(exc, errors.CausewayError):
                    n_serving = sum(worker.serving == after for worker in self.status().workers)
                    return Done(change, n_serving, time.monotonic() - written, reason)
                self._undo(change, reason)
                if isinstance(exc, errors.CausewayError):
                    raise errors.ChangeUndone(action, reason) from exc
                raise
            return Done(change, n_workers, time.monotonic() - written)

    def _was_changed_since(self, began: datetime) -> bool:
        """Whether an operator changed the deployment since then."""
        last = self.file.last()
        return last is not None and last.who not in AUTOMATIC and last.time > began

    def _undo(self, change: Change, reason: str) -> None:
        """What was before the change. Raises `StateUnusable`, which says that it is in force, where that fails."""
        before = msgspec.structs.replace(change.before, revision=change.revision + 1)
        try:
            self.file.write(Change(state.now(), change.who, f"undo {change.action}", reason, change.after, before))
        except errors.StateUnusable as exc:
            in_force = f"{change.action} is in force as revision {change.revision}, although {reason}"
            raise errors.StateUnusable(exc.path, f"{exc.reason}; {in_force}") from exc

    def _converged(self, after: State, within_s: float) -> int:
        """How many workers there are, once all of them serve it. Raises where one says that it cannot, or is silent."""
        deadline = time.monotonic() + within_s
        while True:
            workers = roll_call.call(self.file.folder / "workers")
            for worker in workers:
                if worker.refused == after:
                    raise errors.CausewayError(f"worker {worker.pid} cannot serve it: {worker.problem}")
            waiting = [worker for worker in workers if worker.serving != after]
            if not waiting or after.without_expired(state.now()) is not after:
                return len(workers)
            if time.monotonic() > deadline:
                pids = ", ".join(str(worker.pid) for worker in waiting)
                raise errors.CausewayError(f"worker {pids} did not serve it within {within_s:g} s")
            time.sleep(LOOK_S)

    def _overtaken(self, now: State) -> errors.ChangeConflict:
        last = self.file.last()
        return errors.ChangeConflict(
            last.who if last else "somebody", f"{last.action if last else 'a change'} (revision {now.revision})"
        )

    def _default(self) -> State:
        return State.of(found(self._settings.model))


def found(tag: str) -> str:
    """The version's own tag; `name:latest` is the newest. Raises `ChangeRefused`, `VersionUnknown`, `VersionUnfit`."""
    return _stored(tag).tag


def _stored(tag: str) -> store.StoredVersion:
    if not is_tag(tag):
        raise errors.ChangeRefused(f"{tag!r} is not the tag of a version: name:version, or name:latest for the newest")
    try:
        return store.find(tag)
    except errors.VersionNotFound as exc:
        raise errors.VersionUnknown(tag) from exc
    except errors.VersionRefused as exc:
        raise errors.VersionUnfit(tag, exc.reason) from exc


def _validate(before: State, after: State, *, is_forced: bool) -> None:
    """Whether all that changes may serve. Raises `VersionUnknown` or `VersionUnfit`."""
    champion = None if is_forced else _contract(before.champion)
    for role, assignment in after.roles.items():
        if before.roles.get(role) == assignment:
            continue
        try:
            version = ModelVersion.load(_stored(assignment.tag))
        except errors.VersionRefused as exc:
            raise errors.VersionUnfit(assignment.tag, exc.reason) from exc
        narrower = version.contract.narrower_than(champion) if champion else None
        if narrower:
            reason = f"requests that {before.champion} answers could fail: {narrower}"
            raise errors.VersionUnfit(assignment.tag, reason)


def _contract(tag: str) -> Contract | None:
    """A version's contract; None where it cannot be read any more, and nothing can be compared with it."""
    try:
        return Contract.from_json(store.find(tag).read("contract.json"))
    except (errors.VersionRefused, errors.VersionNotFound, msgspec.DecodeError, ValueError):
        return None


def described(status: Status) -> dict[str, Any]:
    """A status as plain values, for JSON."""
    roles = {
        role: {**msgspec.to_builtins(given), "share": 100 - status.state.shared}
        if role == "champion"
        else msgspec.to_builtins(given)
        for role, given in status.state.roles.items()
    }
    workers = [
        {
            "pid": worker.pid,
            "revision": worker.serving.revision if worker.serving else None,
            "champion": worker.serving.champion if worker.serving else None,
            "is_current": worker.serving == status.state,
            "problem": worker.problem,
        }
        for worker in status.workers
    ]
    return {
        "revision": status.state.revision,
        "roles": roles,
        "previous": list(status.state.previous),
        "source": status.source,
        "problem": status.problem,
        "path": status.path,
        "workers": workers,
    }
