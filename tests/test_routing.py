"""A routing key has its role from the hash alone: exact shares, the same in every process, and no way back."""

from __future__ import annotations

import subprocess
import sys
from hashlib import blake2b

import pytest
from hypothesis import given
from hypothesis import strategies as st

from causeway.routing import Shares, point
from causeway.state import Assignment, Role, State
from tests.conftest import ROOT

N_KEYS = 100_000
SIGMAS = 4.3
"""60 normal variables are all within so many standard deviations in 99.9 of 100 cases; fewer are looked at here."""

keys = st.text()
shares = st.floats(0, 100, exclude_min=True)
at_most_half = st.floats(0, 50, exclude_min=True)


def dealt(salt: str = "", canary: float = 0, challenger: float = 0) -> Shares:
    """Those of a state with these shares; 0 for nobody in the role."""
    roles: dict[Role, Assignment] = {"champion": Assignment("fraud:a")}
    if canary:
        roles["canary"] = Assignment("fraud:b", canary)
    if challenger:
        roles["challenger"] = Assignment("fraud:c", challenger)
    return Shares.of(State(roles, salt=salt))


def those_of(role: Role, shares: Shares) -> set[str]:
    """The keys, of `N_KEYS`, that fall to a role."""
    return {key for key in map(str, range(N_KEYS)) if shares.role(key) == role}


def assert_share(n: int, of: int, percent: float) -> None:
    p = percent / 100
    assert n == pytest.approx(of * p, abs=SIGMAS * (of * p * (1 - p)) ** 0.5)


@pytest.mark.parametrize(("canary", "challenger"), [(1, 0), (5, 50), (0, 10), (33.3, 66.7), (0.1, 0.1)])
@pytest.mark.parametrize("salt", ["", "0123456789abcdef", "a salt of more than the 64 bytes that BLAKE2b takes " * 2])
def test_each_role_gets_its_share_of_the_keys(salt: str, canary: float, challenger: float) -> None:
    shares = dealt(salt, canary, challenger)
    for role, percent in ("canary", canary), ("challenger", challenger), ("champion", 100 - canary - challenger):
        assert_share(len(those_of(role, shares)), N_KEYS, percent)


@given(keys, st.text(max_size=8), at_most_half, at_most_half, at_most_half)
def test_a_share_that_grows_takes_keys_from_the_champion_alone(
    key: str, salt: str, share: float, more: float, beside: float
) -> None:
    small, large = sorted((share, more))
    before, after = dealt(salt, small, beside).role(key), dealt(salt, large, beside).role(key)
    assert (before, after) == ("champion", "canary") or after == before
    before, after = dealt(salt, beside, small).role(key), dealt(salt, beside, large).role(key)
    assert (before, after) == ("champion", "challenger") or after == before


@given(keys, st.text(max_size=8), shares)
def test_a_role_alone_has_the_keys_that_it_has_beside_another(key: str, salt: str, share: float) -> None:
    for beside in {min(share, 100 - share), 100 - share} - {0}:
        both = dealt(salt, share, beside).role(key)
        assert (both == "canary") == (dealt(salt, share).role(key) == "canary")
        assert (both == "challenger") == (dealt(salt, 0, beside).role(key) == "challenger")


@given(keys, st.text(max_size=8), st.floats(0, 100, exclude_min=True, exclude_max=True))
def test_all_or_nothing_is_exact(key: str, salt: str, share: float) -> None:
    assert dealt(salt).role(key) == "champion"
    assert dealt(salt, canary=100).role(key) == "canary"
    assert dealt(salt, challenger=100).role(key) == "challenger"


@pytest.mark.parametrize("canary", [0.1, 1, 33.3, 50, 99.9])
def test_two_shares_of_100_in_all_leave_the_champion_nothing(canary: float) -> None:
    shares = dealt("", canary, round(100 - canary, 1))
    assert shares.at_least - shares.below <= 2**64 * 1e-15  # what floats can tell
    assert those_of("champion", shares) == set()


@given(keys, st.text(max_size=16))
def test_a_point_is_the_blake2b_of_the_key_keyed_with_the_salt(key: str, salt: str) -> None:
    digest = blake2b(key.encode(), digest_size=8, key=salt.encode()).digest()
    assert point(key, salt) == int.from_bytes(digest, "big")


VECTORS = [
    ("customer-1", "", 17599129742097143485),  # as `printf customer-1 | b2sum -l 64` has it
    ("customer-1", "0123456789abcdef", 11294907668026365273),
    ("Zoë", "s" * 65, 14544666878885926189),
]


@pytest.mark.parametrize(("key", "salt", "expected"), VECTORS)
def test_a_key_has_the_same_point_for_ever(key: str, salt: str, expected: int) -> None:
    assert point(key, salt) == expected


def test_a_key_has_the_same_role_in_every_process() -> None:
    program = "from tests.test_routing import *; print(sorted(those_of('canary', dealt('salt', 0.5))))"
    command = [sys.executable, "-c", program]
    told = {
        subprocess.run(command, cwd=ROOT, env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("1", "2")
    }
    assert told == {f"{sorted(those_of('canary', dealt('salt', 0.5)))}\n".encode()}


@pytest.mark.parametrize(("first", "second"), [(10, 10), (50, 5), (1, 90)])
def test_another_salt_deals_the_keys_out_anew(first: float, second: float) -> None:
    one, other = those_of("canary", dealt("one", first)), those_of("canary", dealt("other", second))
    assert_share(len(one & other), len(one), second)
    assert_share(len(other - one), N_KEYS - len(one), second)
