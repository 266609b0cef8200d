"""Which versions are compared, and since when: by an audit log of real changes."""

from datetime import UTC, datetime, timedelta

import pytest

from causeway.errors import NoExperiment
from causeway.experiments.period import Period, latest
from causeway.state import State
from causeway.state_file import Change

START = datetime(2026, 1, 1, tzinfo=UTC)
CHAMPION, OTHER, THIRD = "fraud:a", "fraud:b", "fraud:c"


def at(hours: float) -> datetime:
    return START + timedelta(hours=hours)


def log(*steps: tuple[float, State]) -> list[Change]:
    """Changes of a deployment that began with nothing but a champion."""
    before, changes = State.of(CHAMPION), []
    for hours, after in steps:
        changes.append(Change(at(hours), "somebody", "something", "", before, after))
        before = after
    return changes


def challenged(share: float = 25, salt: str = "salt") -> State:
    return State.of(CHAMPION).give("challenger", OTHER, share, None, salt)


def test_a_challenger_is_compared_since_it_was_given_its_share() -> None:
    state = challenged()
    expected = Period(CHAMPION, "challenger", OTHER, 0.25, at(1).timestamp(), None)
    assert latest(log((1, state)), state, None, at(9)) == expected


def test_another_share_begins_a_new_period_and_a_renewed_lease_does_not() -> None:
    steps = [(h, State.of(CHAMPION).give("canary", OTHER, s, at(h + 1), "s")) for h, s in ((1, 5), (2, 20), (2.5, 20))]
    found = latest(log(*steps), steps[-1][1], "canary", at(3))
    assert (found.share, found.begun, found.ended) == (0.2, at(2).timestamp(), None)


def test_a_share_is_of_the_requests_that_one_of_the_two_gets() -> None:
    state = challenged(20).give("canary", THIRD, 60, None, "salt")
    changes = log((1, challenged(20)), (2, state))
    assert latest(changes, state, None, at(3)).share == pytest.approx(0.5)
    assert latest(changes, state, "canary", at(3)).share == pytest.approx(0.75)
    assert latest(changes, state, "challenger", at(3)).begun == at(2).timestamp()


def test_an_experiment_that_was_ended_is_still_told() -> None:
    over = challenged().stop("challenger")
    found = latest(log((1, challenged()), (5, over)), over, None, at(9))
    assert (found.begun, found.ended) == (at(1).timestamp(), at(5).timestamp())


def test_a_lease_ends_an_experiment_before_the_audit_log_tells_it() -> None:
    state = State.of(CHAMPION).give("canary", OTHER, 5, at(2), "salt")
    found = latest(log((1, state)), state.without_expired(at(3)), None, at(3))
    assert (found.begun, found.ended) == (at(1).timestamp(), at(2).timestamp())


def test_a_canary_with_all_requests_has_nobody_beside_it() -> None:
    half, whole = (State.of(CHAMPION).give("canary", OTHER, share, None, "salt") for share in (50, 100))
    found = latest(log((1, half), (2, whole)), whole, None, at(3))
    assert (found.share, found.ended) == (0.5, at(2).timestamp())


def test_a_state_file_without_an_audit_log_does_not_tell_since_when() -> None:
    assert latest([], challenged(), None, at(1)).begun == 0


def test_nothing_to_compare_is_said() -> None:
    state = State.of(CHAMPION).give("shadow", OTHER, None, None, "salt")
    with pytest.raises(NoExperiment, match="neither a challenger nor a canary"):
        latest(log((1, state)), state, None, at(2))
    with pytest.raises(NoExperiment, match="no canary"):
        latest([], challenged(), "canary", at(2))
