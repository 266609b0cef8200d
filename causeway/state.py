"""What is deployed: which version has which role, and what share of the requests. Pure: no files, no clock.

A `State` never changes; each change gives another, with the next revision, or raises `ChangeRefused`:

    champion    answers whatever no other role does
    canary      answers a small share that grows, for as long as its lease runs
    challenger  answers a fixed share, for an A/B comparison
    shadow      scores what the champion answers, and is never returned

A version has at most one role.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal, get_args

import msgspec

from causeway.errors import ChangeRefused, StateBroken
from causeway.tag import LATEST, is_tag

Role = Literal["champion", "canary", "challenger", "shadow"]
ROLES: tuple[Role, ...] = get_args(Role)
Extra = Literal["canary", "challenger", "shadow"]
"""A role beside the champion's."""

SHARED: tuple[Role, ...] = ("canary", "challenger")
"""Roles with a share of the requests; the champion has the rest."""


N_PREVIOUS = 20
"""So many earlier champions are remembered."""


class Assignment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The version in a role."""

    tag: str
    share: float | None = None
    """Percent of the requests that it answers; None in a role that has no share of its own."""
    until: datetime | None = None
    """When its lease runs out, after which it counts as not there; None where it has none."""

    def __post_init__(self) -> None:
        _check_tag(self.tag)
        if self.share is not None and not 0 < self.share <= 100:
            raise ValueError(f"a share is more than 0 and at most 100 percent, not {self.share:g}")
        if self.until is not None and self.until.tzinfo is None:
            raise ValueError("until needs a time zone, such as 2026-01-31T12:00:00Z")

    def is_over(self, now: datetime) -> bool:
        """Whether its lease has run out."""
        return self.until is not None and self.until <= now

    def __str__(self) -> str:
        return self.tag if self.share is None else f"{self.tag} {self.share:g} %"


def _check_tag(tag: str) -> None:
    _, _, version = tag.partition(":")
    if not is_tag(tag) or version == LATEST:
        raise ValueError(f"{tag!r} is not the tag of one version, name:version")


class State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Roles and their versions. `revision` grows by one with every change."""

    roles: Mapping[Role, Assignment]
    revision: int = 0
    salt: str = ""
    """Mixed into the routing keys: another salt deals them out anew."""
    previous: tuple[str, ...] = ()
    """The champions before this one, the latest at the end; what a rollback goes back to."""

    def __post_init__(self) -> None:
        if "champion" not in self.roles:
            raise ValueError("there is no champion")
        for role, assignment in self.roles.items():
            if (assignment.share is None) != (role not in SHARED):
                raise ValueError(f"the {role} {'needs a share' if role in SHARED else 'has no share of its own'}")
        tags = [assignment.tag for assignment in self.roles.values()]
        if len(set(tags)) < len(tags):
            raise ValueError("a version has two roles")
        if self.roles["champion"].until is not None:
            raise ValueError("the champion has no lease")
        if self.shared > 100:
            raise ValueError(f"the shares add up to {self.shared:g} %")
        for tag in self.previous:
            _check_tag(tag)

    @staticmethod
    def of(champion: str) -> State:
        """Nothing but a champion."""
        return State({"champion": Assignment(champion)})

    @staticmethod
    def from_json(data: bytes) -> State:
        """The state in `data`. Raises `StateBroken`."""
        try:
            return msgspec.json.decode(data, type=State)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise StateBroken(str(exc)) from exc

    def to_json(self) -> bytes:
        """The state as its file holds it."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @property
    def champion(self) -> str:
        """The champion's tag."""
        return self.roles["champion"].tag

    @property
    def shared(self) -> float:
        """Percent of the requests that the champion does not get."""
        return math.fsum(assignment.share or 0.0 for assignment in self.roles.values())

    @property
    def tags(self) -> dict[str, Role]:
        """Each version's role."""
        return {assignment.tag: role for role, assignment in self.roles.items()}

    def without_expired(self, now: datetime) -> State:
        """The state after leases have run out; itself where none has."""
        left = {role: assignment for role, assignment in self.roles.items() if not assignment.is_over(now)}
        return self if len(left) == len(self.roles) else self._next(left)

    def promote(self, tag: str) -> State:
        """`tag` as champion, out of the role that it had; the champion until now is what a rollback goes back to."""
        if tag == self.champion:
            raise ChangeRefused(f"{tag} is the champion already")
        return self._next(self._with_champion(tag), previous=(*self.previous, self.champion)[-N_PREVIOUS:])

    def rollback(self, tag: str | None = None) -> State:
        """The champion before this one, or the earlier champion `tag`, as champion again."""
        if not self.previous:
            raise ChangeRefused(f"there was no champion before {self.champion}")
        if tag == self.champion:
            raise ChangeRefused(f"{tag} is the champion already")
        if tag is not None and tag not in self.previous:
            raise ChangeRefused(f"{tag} was not champion before; {', '.join(dict.fromkeys(self.previous))} were")
        steps = 1 if tag is None else self.previous[::-1].index(tag) + 1
        return self._next(self._with_champion(self.previous[-steps]), previous=self.previous[:-steps])

    def give(self, role: Extra, tag: str, share: float | None, until: datetime | None, salt: str) -> State:
        """`tag` in a role other than the champion's; whoever had the role has it no more.

        `salt` is taken over where nobody had a share before: the routing keys are dealt out anew for each comparison.
        """
        has = self.tags.get(tag, role)
        if has != role:
            raise ChangeRefused(f"{tag} is the {has} already; a version has one role")
        try:
            changed = self._next({**self.roles, role: Assignment(tag, share, until)})
            return changed if self.shared else msgspec.structs.replace(changed, salt=salt)
        except ValueError as exc:
            raise ChangeRefused(str(exc)) from exc

    def stop(self, role: Role) -> State:
        """Nobody in `role`."""
        if role == "champion":
            raise ChangeRefused("somebody has to answer: promote another champion instead")
        if role not in self.roles:
            raise ChangeRefused(f"there is no {role}")
        return self._next(self._without(role))

    def _with_champion(self, tag: str) -> dict[Role, Assignment]:
        try:
            return {**self._without("champion", self.tags.get(tag)), "champion": Assignment(tag)}
        except ValueError as exc:
            raise ChangeRefused(str(exc)) from exc

    def _without(self, *roles: Role | None) -> dict[Role, Assignment]:
        return {role: assignment for role, assignment in self.roles.items() if role not in roles}

    def _next(self, roles: Mapping[Role, Assignment], previous: tuple[str, ...] | None = None) -> State:
        ordered = {role: roles[role] for role in ROLES if role in roles}
        kept = self.previous if previous is None else previous
        return msgspec.structs.replace(self, roles=ordered, revision=self.revision + 1, previous=kept)


def now() -> datetime:
    """The time, as leases and the audit log count it."""
    return datetime.now(UTC)
