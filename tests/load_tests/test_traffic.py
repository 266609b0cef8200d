"""What users send comes from rows that no version was trained on, and wrong answers are found."""

from __future__ import annotations

import json

import numpy as np
import pytest

from causeway.training.dataset import split
from load_tests.traffic import MOST_FORMS, Answers, Traffic, mix
from models import gradient_boosting

SEED = 3


def test_a_mix_says_which_users_there_are_and_their_shares() -> None:
    one, many, bulk = mix("one=6, many=3,bulk=1", many_rows=50)
    assert [(kind.name, kind.rows, kind.weight) for kind in (one, many, bulk)] == [
        ("one", 1, 0.6),
        ("many", 50, 0.3),
        ("bulk", 50, 0.1),
    ]
    assert [dict(kind.headers) for kind in (one, many, bulk)] == [{}, {}, {"X-Priority": "bulk"}]
    assert [kind.name for kind in mix("one=1,many=0")] == ["one"]


def test_a_request_without_rows_is_no_request() -> None:
    with pytest.raises(ValueError, match="a row at least, not 0"):
        mix("many=1", many_rows=0)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "'' in '' is no share such as one=0.9; kinds are one, many, bulk"),
        ("one", "'one' in 'one' is no share"),
        ("few=1", "'few=1' in 'few=1' is no share"),
        ("one=1,one=2", "'one=2' in 'one=1,one=2' is no share"),
        ("one=-1", "'one=-1'"),
        ("one=0,many=0", "sends nothing"),
    ],
)
def test_what_is_no_mix_is_refused_in_words(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        mix(text)


@pytest.fixture(scope="module")
def traffic() -> Traffic:
    """Requests of all kinds of users."""
    return Traffic.from_held_out(mix("one=0.7,many=0.2,bulk=0.1", many_rows=20), SEED)


def test_requests_are_rows_of_the_test_period_with_the_customer_as_routing_key(traffic: Traffic) -> None:
    test = split(gradient_boosting.default_data(SEED), seed=SEED).test
    assert test.entity is not None
    held_out = {(tuple(row), customer) for row, customer in zip(test.X.tolist(), test.entity.tolist(), strict=True)}
    rows = {row for row, _ in held_out}
    for request in traffic.requests:
        features = np.array(json.loads(request.body)["features"], dtype=np.float32).tolist()
        assert len(features) == request.rows
        assert {tuple(row) for row in features} <= rows
        assert (tuple(features[0]), int(request.headers["X-Routing-Key"])) in held_out
        assert request.headers.get("X-Priority") == ("bulk" if request.kind == "bulk" else None)


def test_numbers_are_written_as_people_write_them(traffic: Traffic) -> None:
    values = [value for row in json.loads(traffic.requests[0].body)["features"] for value in row]
    assert any(isinstance(value, int) for value in values)
    assert all(len(repr(value)) <= 12 for value in values)


def test_a_seed_says_which_requests(traffic: Traffic) -> None:
    assert Traffic.from_held_out(traffic.kinds, SEED).requests == traffic.requests
    assert Traffic.from_held_out(traffic.kinds, SEED + 1).requests != traffic.requests


def test_requests_are_drawn_by_the_shares_of_their_users(traffic: Traffic) -> None:
    places = traffic.draw(20_000, np.random.default_rng(0))
    drawn = [traffic.requests[place].kind for place in places]
    assert {kind.name: drawn.count(kind.name) / len(drawn) for kind in traffic.kinds} == pytest.approx(
        {kind.name: kind.weight for kind in traffic.kinds}, abs=0.02
    )
    assert len(set(places)) == len(traffic.requests)
    assert traffic.rows[places].sum() == sum(traffic.requests[place].rows for place in places)


def answer(*predictions: float, version: str | None = "fraud:a", **others: object) -> bytes:
    """An answer of Causeway, or without `version` one of another server."""
    named = {} if version is None else {"model_version": version}
    return json.dumps({"predictions": [[value] for value in predictions], **named, **others}).encode()


def learned(*bodies: bytes, rows: int = 2) -> Answers:
    """What is known after these right answers to request 0."""
    answers = Answers([rows, rows])
    assert [answers.fault(0, body) for body in bodies] == [None] * len(bodies)
    return answers


@pytest.mark.parametrize(
    "body",
    [
        answer(0.25, 0.5),
        answer(0.25, 0.5, version=None),
        b'{"predictions": [0.25, 0.5]}',
        b"[0.25, 0.5]",
        b"[[0.25], [0.5]]",
        b'{"model_version":"fraud:a","predictions":[[0],[1]]}',
        b'{"predictions":[[2.5e-1],[5E-1]],"model_version":null}',
    ],
)
def test_predictions_are_right_in_either_form_of_an_answer(body: bytes) -> None:
    learned(body, body)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (answer(0.25), "too few or too many"),
        (answer(0.25, 0.5, 0.75), "too few or too many"),
        (answer(0.25, 1.5), "not from 0 to 1"),
        (answer(0.25, -0.1), "not from 0 to 1"),
        (answer(0.25, float("nan")), "not from 0 to 1"),
        (answer(0.25, float("inf")), "not from 0 to 1"),
        (b'{"predictions": [[0.25], [null]]}', "without predictions"),
        (b'{"predictions": [[0.25], ["0.5"]]}', "without predictions"),
        (b'{"predictions": [[0.25], [0.5, 0.5]]}', "without predictions"),
        (b'{"predictions": 0.5}', "without predictions"),
        (b'{"predictions": []}', "without predictions"),
        (b'{"error": {"code": "overloaded"}}', "without predictions"),
        (b"null", "without predictions"),
        (b"<html>", "without predictions"),
        (b"\xff", "without predictions"),
        (b"", "without predictions"),
    ],
)
def test_anything_but_as_many_probabilities_as_rows_is_a_fault(body: bytes, why: str) -> None:
    for answers in (learned(), learned(answer(0.25, 0.5))):
        assert why in (answers.fault(0, body) or "")


@pytest.mark.parametrize(
    "later",
    [
        answer(0.25, 0.5, latency_ms=0.2, request_id="b"),
        answer(0.25, 0.5000001),
        answer(0.25, 0.500, version="fraud:a", variant="champion"),
    ],
)
def test_the_same_predictions_are_right_whatever_else_the_answer_says(later: bytes) -> None:
    learned(answer(0.25, 0.5, latency_ms=0.1, request_id="a"), later, later)


def test_other_predictions_of_the_same_version_for_the_same_rows_are_a_fault() -> None:
    answers = learned(answer(0.25, 0.5), answer(0.25, 0.5))
    assert "other predictions" in (answers.fault(0, answer(0.5, 0.25)) or "")
    assert answers.fault(0, answer(0.25, 0.5)) is None
    assert answers.fault(1, answer(0.5, 0.25)) is None


@pytest.mark.parametrize("version", ["fraud:b", None])
def test_another_version_may_predict_something_else_and_then_keeps_to_it(version: str | None) -> None:
    answers = learned(answer(0.25, 0.5), answer(0.5, 0.25, version=version), answer(0.25, 0.5))
    assert "other predictions" in (answers.fault(0, answer(0.25, 0.5, version=version)) or "")


def test_a_server_that_writes_each_answer_anew_is_read_anew() -> None:
    def body(number: int, *predictions: float) -> bytes:
        return json.dumps({"id": number, "predictions": predictions}).encode()

    answers = learned(*(body(number, 0.25, 0.5) for number in range(2 * MOST_FORMS)))
    assert "other predictions" in (answers.fault(0, body(0, 0.25, 0.75)) or "")
