"""Which versions are compared, and since when with the shares that they have, by the audit log. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

from causeway.errors import NoExperiment
from causeway.state import SHARED, State
from causeway.state_file import Change

Compared = Literal["canary", "challenger"]


@dataclass(frozen=True)
class Period:
    """A time in which the same versions had the same shares."""

    champion: str
    """Tag of the version that others are compared with."""
    role: Compared
    """Of the variant that is compared with it."""
    variant: str
    """The variant's tag."""
    share: float
    """The variant's probability for a request that one of the two gets, in (0, 1)."""
    begun: float
    """Seconds since 1970; 0 where the audit log does not tell."""
    ended: float | None
    """Seconds since 1970; None while it lasts."""


def latest(changes: Sequence[Change], state: State, role: Compared | None, now: datetime) -> Period:
    """The last time that `role` was compared with the champion; without a role, that either was, challenger first.

    changes: the audit log. state: what is deployed. Raises `NoExperiment`.
    """
    for begun, ended, during in reversed(_stretches(changes, state, now)):
        for wanted in [role] if role else ("challenger", "canary"):
            given = during.roles.get(wanted)
            if given is not None and given.share is not None and during.shared < 100:
                share = given.share / (given.share + 100 - during.shared)
                return Period(during.champion, wanted, given.tag, share, begun, ended)
    raise NoExperiment(role)


def _stretches(changes: Sequence[Change], state: State, now: datetime) -> list[tuple[float, float | None, State]]:
    """Times with constant shares: when each began and ended, and a state in it."""
    steps = [(0.0, change.before) for change in changes[:1]]
    steps += [(change.time.timestamp(), change.after) for change in changes]
    if not steps or _shares(steps[-1][1]) != _shares(state):  # edited by hand, or a lease has run out
        steps.append((_since(steps, now), state))
    grouped = [list(group) for _, group in groupby(steps, key=lambda step: _shares(step[1]))]
    begun = [group[0][0] for group in grouped]
    return list(zip(begun, [*begun[1:], None], [group[-1][1] for group in grouped], strict=True))


def _since(steps: Sequence[tuple[float, State]], now: datetime) -> float:
    """When what is deployed came to differ from the last step, at the earliest."""
    if not steps:
        return 0.0
    begun, last = steps[-1]
    return min(
        (given.until.timestamp() for given in last.roles.values() if given.until and given.is_over(now)), default=begun
    )


def _shares(state: State) -> Any:
    """Where these are the same, requests are dealt out in the same way."""
    shares = [(given.tag, given.share) for role in SHARED if (given := state.roles.get(role))]
    return state.champion, state.salt, shares
