"""Every change gives a state that makes sense or is refused, and a rollback undoes a promotion."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from causeway.errors import ChangeRefused, StateBroken
from causeway.state import N_PREVIOUS, ROLES, SHARED, Assignment, Extra, Role, State
from causeway.tag import LATEST

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)

PART = r"[a-z0-9]([a-z0-9._-]{0,6}[a-z0-9])?"
tags = st.from_regex(rf"{PART}:{PART}", fullmatch=True).filter(lambda tag: not tag.endswith(f":{LATEST}"))
times = st.datetimes(timezones=st.just(UTC))
leases = st.none() | times
extras = st.sampled_from(ROLES[1:])


@st.composite
def states(draw: st.DrawFn) -> State:
    """Any valid state."""
    has = [role for role in ROLES[1:] if draw(st.booleans())]
    champion, *others = draw(st.lists(tags, min_size=len(has) + 1, max_size=len(has) + 1, unique=True))
    roles: dict[Role, Assignment] = {"champion": Assignment(champion)}
    left = 100.0
    for role, tag in zip(has, others, strict=True):
        share = draw(st.floats(0, min(left, 60.0), exclude_min=True)) if role in SHARED else None
        left -= share or 0.0
        roles[role] = Assignment(tag, share, draw(leases))
    salt = draw(st.text(max_size=8))
    return State(roles, draw(st.integers(0, 10**9)), salt, tuple(draw(st.lists(tags, max_size=N_PREVIOUS))))


def others(state: State) -> st.SearchStrategy[str]:
    """Tags without a role."""
    return tags.filter(lambda tag: tag not in state.tags)


@given(states())
def test_json_reads_back_as_the_same_state(state: State) -> None:
    assert State.from_json(state.to_json()) == state


@given(states(), st.data())
def test_promote_then_rollback_is_the_identity_but_for_the_revision(state: State, data: st.DataObject) -> None:
    assume(len(state.previous) < N_PREVIOUS)
    back = state.promote(data.draw(others(state))).rollback()
    assert msgspec.structs.replace(back, revision=state.revision) == state
    assert back.revision == state.revision + 2


@given(states(), st.data())
def test_for_a_version_with_a_role_they_are_the_same_as_its_end_in_that_role(state: State, data: st.DataObject) -> None:
    assume(len(state.roles) > 1)
    role = data.draw(st.sampled_from([role for role in state.roles if role != "champion"]))
    back = state.promote(state.roles[role].tag).rollback()
    assert (back.roles, back.salt) == (state.stop(role).roles, state.salt)


@given(states(), st.lists(tags, min_size=1, max_size=5, unique=True))
def test_one_rollback_by_name_is_as_many_without_one(state: State, promoted: list[str]) -> None:
    assume(len(state.previous) + len(promoted) <= N_PREVIOUS)
    assume(not {*state.tags, *state.previous} & set(promoted) and state.champion not in state.previous)
    after = state
    for tag in promoted:
        after = after.promote(tag)
    at_once = after.rollback(state.champion)
    for _ in promoted:
        after = after.rollback()
    assert (at_once.roles, at_once.previous) == (after.roles, after.previous) == (state.roles, state.previous)


Step = Callable[[State], State]


def steps() -> st.SearchStrategy[Step]:
    """Any change, sensible or not."""
    few = st.sampled_from([f"fraud:v{number}" for number in range(6)] + ["fraud:latest", "nonsense"])
    shares = st.none() | st.floats() | st.floats(0, 100)
    return st.one_of(
        st.builds(lambda tag: lambda state: state.promote(tag), few),
        st.builds(lambda tag: lambda state: state.rollback(tag), st.none() | few),
        st.builds(lambda role: lambda state: state.stop(role), st.sampled_from(ROLES)),
        st.builds(lambda *given: lambda state: state.give(*given), extras, few, shares, leases, st.text(max_size=2)),
    )


@given(st.lists(steps(), max_size=20))
def test_each_change_is_refused_or_gives_a_valid_state_with_the_next_revision(changes: list[Step]) -> None:
    state = State.of("fraud:v0")
    for change in changes:
        try:
            after = change(state)
        except ChangeRefused:
            continue
        assert after.revision == state.revision + 1
        assert after.champion not in after.previous[-1:]
        assert len(after.tags) == len(after.roles)
        assert 0 <= after.shared <= 100
        assert len(after.previous) <= N_PREVIOUS
        assert State(**msgspec.structs.asdict(after)) == after
        state = after


@given(states(), extras, st.none() | st.floats(0, 200), st.text(max_size=2), st.data())
def test_shares_that_fit_are_given_and_others_refused(
    state: State, role: Extra, share: float | None, salt: str, data: st.DataObject
) -> None:
    tag = data.draw(others(state))
    beside = math.fsum(given.share or 0.0 for other, given in state.roles.items() if other != role)
    fits = share is None if role not in SHARED else share is not None and share > 0 and beside + share <= 100
    if not fits:
        with pytest.raises(ChangeRefused):
            state.give(role, tag, share, None, salt)
        return
    after = state.give(role, tag, share, None, salt)
    assert after.roles == {**state.roles, role: Assignment(tag, share)}
    assert after.salt == (state.salt if state.shared else salt)


@pytest.mark.parametrize("canary", [0.1, 1, 33.3, 42.42, 99.99])
def test_decimal_shares_of_100_in_all_stand_together(canary: float) -> None:
    state = State.of("fraud:a").give("canary", "fraud:b", canary, None, "")
    assert state.give("challenger", "fraud:c", round(100 - canary, 2), None, "").shared == 100


def test_a_growing_share_keeps_the_salt_and_the_next_comparison_takes_another() -> None:
    state = State.of("fraud:a").give("shadow", "fraud:s", None, None, "first").give("canary", "fraud:b", 1, None, "x")
    assert state.salt == "x"
    assert state.give("canary", "fraud:b", 5, None, "y").give("challenger", "fraud:c", 5, None, "z").salt == "x"
    assert state.stop("canary").give("canary", "fraud:b", 1, None, "y").salt == "y"


def test_a_rollback_by_name_skips_the_champions_since() -> None:
    state = State.of("fraud:a").promote("fraud:b").promote("fraud:c").promote("fraud:b").promote("fraud:d")
    back = state.rollback("fraud:b")  # the last time that it was
    assert (back.champion, back.previous) == ("fraud:b", ("fraud:a", "fraud:b", "fraud:c"))
    assert state.rollback("fraud:a").previous == ()


def test_a_champion_in_another_role_leaves_it() -> None:
    state = State.of("fraud:a").give("canary", "fraud:b", 100, NOON, "").promote("fraud:b")
    assert state.roles == {"champion": Assignment("fraud:b")}
    state = state.give("shadow", "fraud:a", None, None, "").rollback()
    assert state.roles == {"champion": Assignment("fraud:a")}


@given(states(), times)
def test_what_is_left_after_leases_have_run_out_is_what_had_none_or_a_later_end(state: State, now: datetime) -> None:
    left = state.without_expired(now)
    assert left.roles == {role: has for role, has in state.roles.items() if has.until is None or has.until > now}
    if left.roles == state.roles:
        assert left is state
    else:
        assert msgspec.structs.replace(left, roles=state.roles, revision=state.revision) == state
        assert left.revision == state.revision + 1
    assert left.without_expired(now) is left


def test_a_lease_runs_out_at_its_end_and_not_before() -> None:
    state = State.of("fraud:a").give("canary", "fraud:b", 5, NOON, "")
    assert state.without_expired(NOON - timedelta.resolution) is state
    assert "canary" not in state.without_expired(NOON).roles


def document(**roles: object) -> bytes:
    return msgspec.json.encode({"roles": {"champion": {"tag": "fraud:a"}, **roles}})


CHAMPION = '"champion": {"tag": "fraud:a"}'


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (document()[:-1], "truncated"),
        (b"champion: fraud:a", "malformed"),
        (document() + document(), "trailing"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "got `null`"),
        (b"{}", "required field `roles`"),
        (b'{"roles": {}}', "there is no champion"),
        (document(champion=None), "got `null`"),
        (document(champion="fraud:a"), "got `str`"),
        (document(champion={}), "required field `tag`"),
        (document(champion={"tag": "fraud:latest"}), "'fraud:latest' is not the tag of one version"),
        (document(champion={"tag": "fraud"}), "'fraud' is not the tag of one version"),
        (document(champion={"tag": "fraud:a", "share": 50}), "the champion has no share of its own"),
        (document(champion={"tag": "fraud:a", "until": NOON}), "the champion has no lease"),
        (document(champion={"tag": "fraud:a", "weight": 1}), "unknown field `weight`"),
        (document(shadow={"tag": "fraud:b", "share": 5}), "the shadow has no share of its own"),
        (document(canary={"tag": "fraud:b"}), "the canary needs a share"),
        (document(challenger={"tag": "fraud:b"}), "the challenger needs a share"),
        (document(canary={"tag": "fraud:b", "share": 0}), "more than 0 and at most 100 percent, not 0"),
        (document(canary={"tag": "fraud:b", "share": -1}), "not -1"),
        (document(canary={"tag": "fraud:b", "share": 101}), "not 101"),
        (document(canary={"tag": "fraud:b", "share": "5"}), "got `str`"),
        (document(canary={"tag": "fraud:b", "share": True}), "got `bool`"),
        (f'{{"roles": {{{CHAMPION}, "canary": {{"tag": "fraud:b", "share": NaN}}}}}}'.encode(), "malformed"),
        (f'{{"roles": {{{CHAMPION}, "canary": {{"tag": "fraud:b", "share": 1e999}}}}}}'.encode(), "out of range"),
        (document(canary={"tag": "fraud:b", "share": 5, "until": "2026-01-31T12:00:00"}), "needs a time zone"),
        (document(canary={"tag": "fraud:b", "share": 5, "until": "tomorrow"}), "RFC3339"),
        (document(canary={"tag": "fraud:a", "share": 5}), "a version has two roles"),
        (
            document(canary={"tag": "fraud:b", "share": 60}, challenger={"tag": "fraud:c", "share": 50}),
            "the shares add up to 110 %",
        ),
        (document(king={"tag": "fraud:b"}), "Invalid enum value 'king'"),
        (f'{{"roles": {{{CHAMPION}}}, "owner": "me"}}'.encode(), "unknown field `owner`"),
        (f'{{"roles": {{{CHAMPION}}}, "revision": "1"}}'.encode(), "got `str`"),
        (f'{{"roles": {{{CHAMPION}}}, "previous": ["nonsense"]}}'.encode(), "'nonsense' is not the tag of one version"),
        (f'{{"roles": {{{CHAMPION}}}, "salt": "'.encode() + b'\xff"}', "can't decode byte 0xff"),
        (b'{"roles": ' * 100_000, "Invalid enum value 'roles'"),
        (b"[" * 100_000, "got `array`"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_a_file_that_makes_no_sense_is_broken_with_the_reason(data: bytes, reason: str) -> None:
    assert State.from_json(document()) == State.of("fraud:a")
    with pytest.raises(StateBroken, match=re.escape(reason)):
        State.from_json(data)


@given(st.binary(), st.integers(0, len(document())))
def test_any_bytes_in_its_middle_leave_a_valid_state_or_break_it(data: bytes, at: int) -> None:
    try:
        state = State.from_json(document()[:at] + data + document()[at + 1 :])
    except StateBroken:
        return
    assert State.from_json(state.to_json()) == state


RUNNING = State.of("fraud:a").promote("fraud:b").give("canary", "fraud:c", 60, None, "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: state.promote("fraud:b"), "fraud:b is the champion already"),
        (lambda state: state.promote("fraud:latest"), "'fraud:latest' is not the tag of one version, name:version"),
        (lambda state: State.of("fraud:b").rollback(), "there was no champion before fraud:b"),
        (lambda state: state.rollback("fraud:c"), "fraud:c was not champion before; fraud:a were"),
        (lambda state: state.promote("fraud:a").rollback("fraud:a"), "fraud:a is the champion already"),
        (lambda state: state.give("shadow", "fraud:c", None, None, ""), "fraud:c is the canary already"),
        (lambda state: state.give("canary", "fraud:b", 5, None, ""), "fraud:b is the champion already; a version has"),
        (lambda state: state.give("challenger", "fraud:d", 50, None, ""), "the shares add up to 110 %"),
        (lambda state: state.give("canary", "fraud:c", 101, None, ""), "at most 100 percent, not 101"),
        (lambda state: state.give("canary", "fraud:c", math.nan, None, ""), "not nan"),
        (lambda state: state.give("canary", "fraud:c", None, None, ""), "the canary needs a share"),
        (lambda state: state.give("shadow", "fraud:d", 5, None, ""), "the shadow has no share of its own"),
        (lambda state: state.give("shadow", "nonsense", None, None, ""), "'nonsense' is not the tag of one version"),
        (lambda state: state.give("canary", "fraud:c", 5, datetime(2026, 1, 31), ""), "until needs a time zone"),
        (lambda state: state.stop("champion"), "promote another champion instead"),
        (lambda state: state.stop("challenger"), "there is no challenger"),
    ],
)
def test_a_change_that_makes_no_sense_is_refused_with_the_reason(change: Step, reason: str) -> None:
    with pytest.raises(ChangeRefused, match=re.escape(reason)):
        change(RUNNING)
