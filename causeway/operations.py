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
from causeway.state_file import Change, StateFile
from causeway.version import ModelVersion

CONVERGED_WITHIN_S = 60.0
"""How long workers may take to load a version before a change is undone."""

LOOK_S = 0.01
"""How often their reports are looked at meanwhile."""


@dataclass(frozen=True)
class By:
    """Somebody who makes a change, and the reason for the audit log."""

    who: str
    why: str = ""


@dataclass(frozen=True)
class Done:
    """A change that was carried out."""

    change: Change
    workers: int
    """How many serve it."""
    seconds: float
    """From the moment that the state was written to the last worker's word."""


@dataclass(frozen=True)
class Status:
    """What is deployed, and how far the workers are."""

    state: State
    source: str
    """`file`, `history` (the file makes no sense), or `settings` (there is none)."""
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
        except errors.StateBroken as exc:
            problem = exc.message
            kept = self.history()
            if not kept:
                raise errors.StateUnusable(str(self.file.path), exc.message) from exc
            current, source = kept[-1].after, "history"
        if current is None:
            # A running server knows what `latest` was when it started.
            serving = (worker.serving for worker in workers)
            current, source = next(filter(None, serving), None) or self._default(), "settings"
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
            listed.append(Listed(stored.tag, role, share, stored.created, stored.average_precision, stored.n_bytes))
        return listed

    def promote(self, tag: str, by: By, *, revision: int | None = None) -> Done:
        """`tag` as champion."""
        tag = found(tag)
        return self._change(f"promote {tag}", lambda before: before.promote(tag), by, revision)

    def rollback(self, tag: str | None, by: By, *, is_forced: bool = False) -> Done:
        """The champion before this one, or `tag`, as champion; forced, even where it takes less than this one does."""
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
            status = self.status()
            before = status.state
            if revision is not None and before.revision != revision:
                raise self._overtaken(before)
            after = transition(before)
            _validate(before, after, is_forced=is_forced)
            change = Change(state.now(), by.who, action, by.why, before, after)
            self.file.write(change)
            written = time.monotonic()
            try:
                n_workers = self._converged(after)
            except BaseException as exc:  # also where an operator has no patience
                reason = str(exc) or type(exc).__name__
                undone = msgspec.structs.replace(before, revision=after.revision + 1)
                self.file.write(Change(state.now(), by.who, f"undo {action}", reason, after, undone))
                if isinstance(exc, errors.CausewayError):
                    raise errors.ChangeUndone(action, reason) from exc
                raise
            return Done(change, n_workers, time.monotonic() - written)

    def _converged(self, after: State) -> int:
        """How many workers there are, once all of them serve it. Raises where one says that it cannot, or is silent."""
        deadline = time.monotonic() + CONVERGED_WITHIN_S
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
                raise errors.CausewayError(f"worker {pids} did not serve it within {CONVERGED_WITHIN_S:g} s")
            time.sleep(LOOK_S)

    def _overtaken(self, now: State) -> errors.ChangeConflict:
        changes = self.history()
        last = changes[-1] if changes else None
        return errors.ChangeConflict(
            last.who if last else "somebody", f"{last.action if last else 'a change'} (revision {now.revision})"
        )

    def _default(self) -> State:
        return State.of(found(self._settings.model))


def found(tag: str) -> str:
    """The tag of the version; `name:latest` is the newest. Raises `VersionUnknown` or `VersionUnfit`."""
    return _stored(tag).tag


def _stored(tag: str) -> store.StoredVersion:
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
