"""Which role answers a request. Pure: the same key, salt and shares give the same role in every worker, for ever."""

from __future__ import annotations

from hashlib import blake2b
from typing import NamedTuple

from causeway.state import Role, State

_POINTS = 2**64


def point(key: str, salt: str) -> int:
    """Where a routing key falls between 0 and 2^64 - 1, all of them equally likely: keyed BLAKE2b (RFC 7693)."""
    return int.from_bytes(blake2b(key.encode(), digest_size=8, key=_salted(salt)).digest(), "big")


def _salted(salt: str) -> bytes:
    """BLAKE2b takes keys of up to 64 bytes."""
    data = salt.encode()
    return data if len(data) <= 64 else blake2b(data).digest()


class Shares(NamedTuple):
    """The shares of a state, as points: the canary has the lowest keys, the challenger the highest.

    So a share that grows takes keys from the champion alone, and gives none back.
    """

    salt: str
    below: int
    """Points below this are the canary's."""
    at_least: int
    """Points from this on are the challenger's."""

    @classmethod
    def of(cls, state: State) -> Shares:
        """Those of a state."""
        canary, challenger = (state.roles.get(role) for role in ("canary", "challenger"))
        below = _points(canary.share if canary else None)
        return cls(state.salt, below, _POINTS - _points(challenger.share if challenger else None))

    def role(self, key: str) -> Role:
        """Who answers a request with this routing key."""
        at = point(key, self.salt)
        if at < self.below:
            return "canary"
        return "challenger" if at >= self.at_least else "champion"


def _points(share: float | None) -> int:
    return round((share or 0.0) / 100 * _POINTS)
