"""Labels by the client, to the served process and to a server that fails on purpose. Sync and async behave alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from causeway import errors
from causeway.client import Feedback, new_id
from tests.conftest import Server, wait_until
from tests.test_client import ONCE, QUICK, ROWS, async_call, call, play, refuse, reply, sync_call  # noqa: F401 - fixtures

Call = Callable[..., Any]
Play = Callable[..., Any]
STORED = {"accepted": 1, "repeated": [], "replaced": [], "unknown": [], "request_id": "id-1"}


@pytest.mark.parametrize("labels", [[0, 1, 0], (0.0, 1.0, 0.0), np.array([0, 1, 0]), np.array([False, True, False])])
def test_labels_of_an_answer_are_stored_and_sent_again_change_nothing(call: Call, server: Server, labels: Any) -> None:  # noqa: F811
    answer = call(server.url, lambda client: client.predict(ROWS))
    first, again = (call(server.url, lambda client: client.feedback(answer.request_id, labels)) for _ in range(2))
    assert (first.accepted, first.repeated, first.replaced) == (1, [], [])
    assert (again.accepted, again.repeated, again.replaced) == (1, [answer.request_id], [])


def test_a_prediction_is_known_soon_after_its_answer(call: Call, server: Server) -> None:  # noqa: F811
    name = call(server.url, lambda client: client.predict(ROWS)).request_id
    send = lambda: call(server.url, lambda client: client.feedback(name, [0, 0, 0]))  # noqa: E731
    wait_until(lambda: send().unknown == [], "the prediction in the log")
    with pytest.raises(errors.FeedbackInvalid, match="2 labels for 3 rows"):
        call(server.url, lambda client: client.feedback(name, [0, 0]))


def test_labels_of_many_requests_go_together(call: Call, server: Server) -> None:  # noqa: F811
    one, other = new_id(), new_id()
    call(server.url, lambda client: client.feedback(one, [0]))
    stored = call(server.url, lambda client: client.feedback_many({one: [1], other: iter([0, 1])}))
    assert stored == Feedback(accepted=2, repeated=[], replaced=[one], unknown=[one, other])
    with pytest.raises(errors.FeedbackInvalid) as refused:
        call(server.url, lambda client: client.feedback_many({one: [0], other: [7]}))
    assert refused.value.entry == 1


def test_more_labels_than_one_request_may_have_go_in_several(call: Call, server: Server) -> None:  # noqa: F811
    prefix = new_id()
    many = {f"{prefix}-{i}": [0.0] for i in range(12_000)}
    assert call(server.url, lambda client: client.feedback_many(many)).accepted == 12_000
    assert len(call(server.url, lambda client: client.feedback_many(many)).repeated) == 12_000
    large = {f"{prefix}-{i}-large": np.zeros(10_000) for i in range(30)}
    assert call(server.url, lambda client: client.feedback_many(large)).accepted == 30


def test_labels_without_ids_are_refused_in_a_sentence(call: Call) -> None:  # noqa: F811
    with pytest.raises(TypeError, match=r"takes labels by request id, .* not list"):
        call("http://127.0.0.1:1", lambda client: client.feedback_many([("a", [0])]))


def test_a_database_that_is_away_is_tried_again(call: Call, play: Play) -> None:  # noqa: F811
    busy = play(refuse(errors.DatabaseUnreachable(1.0), Retry_After="0"), reply(200, STORED))
    stored = call(busy.url, lambda client: client.feedback("a", [1]), retry=QUICK)
    assert stored == Feedback(accepted=1, repeated=[], replaced=[], unknown=[])
    first, second = busy.requests
    assert first.body == second.body == b'{"request_id":"a","labels":[1]}'


def test_an_answer_that_does_not_say_what_was_stored_is_none(call: Call, play: Play) -> None:  # noqa: F811
    with pytest.raises(errors.UnexpectedAnswer):
        call(play(reply(200, {"accepted": 1})).url, lambda client: client.feedback("a", [1]), retry=ONCE)
