"""Each refusal has its own code and status, and reads the same on both sides of the wire."""

from __future__ import annotations

import json
import pickle
import re

import pytest

from causeway import codec, errors
from causeway.contract import Contract, Feature, Output
from causeway.errors import Refusal

REFUSALS = [
    errors.BodyNotJson(),
    errors.BodyNotAnObject(),
    errors.NameRepeated(),
    errors.FeaturesMissing(),
    errors.FeaturesAmbiguous(),
    errors.NoRows(),
    errors.FeaturesNot2D(row=3),
    errors.RaggedRows(row=1, expected=15, got=14),
    errors.WrongWidth(expected=15, got=14),
    errors.NotANumber(row=0, column=2, name="TX_DURING_NIGHT", got="a string"),
    errors.NotFinite(row=0, column=2, name="TX_DURING_NIGHT"),
    errors.NotAnInteger(row=0, column=2, name="TX_DURING_NIGHT"),
    errors.OutOfRange(row=0, column=2, name="TX_DURING_NIGHT", minimum=0, maximum=1),
    errors.RowsNotObjects(row=4),
    errors.UnknownName(row=5, suggestion="TX_AMOUNT"),
    errors.MissingName(row=6, column=0, name="TX_AMOUNT"),
    errors.InvalidHeader("X-Timeout-Ms", "a positive number of milliseconds"),
    errors.CommandInvalid("tag, share", "Expected `float`, got `str` - at `$.share`"),
    errors.Unauthorized(),
    errors.VersionNotLoaded(["fraud:v1", "fraud:v2"]),
    errors.VersionUnknown("fraud:v9"),
    errors.ChangeRefused("fraud:v1 is the champion already"),
    errors.ChangeConflict("ann@host", "promote fraud:v2"),
    errors.VersionUnfit("fraud:v2", "its samples differ"),
    errors.StateUnusable("/etc/causeway/state.json", "Read-only file system"),
    errors.ChangeUndone("promote fraud:v2", "worker 7 cannot serve it"),
    errors.NotFound(["POST /predict", "GET /health"]),
    errors.MethodNotAllowed(["GET", "HEAD"]),
    errors.BodyTooLarge(limit_bytes=1024),
    errors.TooManyRows(limit_rows=10, got=11),
    errors.UnsupportedMediaType(),
    errors.ModelFailed("fraud:v1"),
    errors.InternalError(),
    errors.NotReady("it is being loaded"),
    errors.DeviceLost("cuda:0", "CUDA error: an illegal memory access was encountered"),
    errors.DeadlineExceeded(timeout_ms=1000),
    errors.Overloaded(200.0, 312.5, 0.1),
    errors.DeadlineUnreachable(200.0, 312.5),
    errors.FeedbackInvalid("labels must be numbers", entry=3),
    errors.DatabaseUnreachable(2.5),
]
"""One of each class that the service can answer with."""

each_refusal = pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code)


def _leaves(cls: type[Refusal]) -> list[type[Refusal]]:
    return [leaf for child in cls.__subclasses__() for leaf in (_leaves(child) or [child])]


def test_every_class_of_refusal_has_a_code_of_its_own() -> None:
    leaves = _leaves(Refusal)
    assert Refusal.by_code == {cls.__dict__["code"]: cls for cls in leaves}
    assert len(Refusal.by_code) == len(leaves)
    assert {type(refusal) for refusal in REFUSALS} == set(leaves)


@each_refusal
def test_the_status_of_a_refusal_is_the_one_that_the_tree_documents(refusal: Refusal) -> None:
    own_or_inherited = {cls.__name__ for cls in type(refusal).__mro__}
    lines = [line for line in (errors.__doc__ or "").splitlines() if own_or_inherited & set(re.findall(r"\w+", line))]
    assert 400 <= refusal.status <= 504
    assert any(f"({refusal.status})" in line for line in lines), lines


@each_refusal
def test_a_refusal_that_was_sent_as_json_is_the_same_refusal_again(refusal: Refusal) -> None:
    received = Refusal.from_body(refusal.status, json.loads(json.dumps(refusal.body("id-1"), allow_nan=False)))
    assert type(received) is type(refusal)
    assert (received.status, received.code) == (refusal.status, refusal.code)
    assert str(received) == received.message == refusal.message
    assert received.request_id == "id-1"
    assert received.facts == refusal.facts
    assert {name: getattr(received, name) for name in refusal.facts} == refusal.facts


def test_a_code_from_a_newer_service_becomes_a_plain_refusal() -> None:
    received = Refusal.from_body(418, {"error": "No coffee", "code": "teapot", "request_id": "id-1", "spout": 1})
    assert type(received) is Refusal
    assert (received.status, received.code, received.message, received.spout) == (418, "teapot", "No coffee", 1)


def test_what_is_no_fact_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="NoRows has no attribute 'row'"):
        _ = errors.NoRows().row


SECRET = "4111111111111111"
AMOUNTS = Contract((Feature("AMOUNT", minimum=0, maximum=100), Feature("NIGHT", "integer", 0, 1)), Output("p"))


@pytest.mark.parametrize(
    "body",
    [
        SECRET,
        f'"{SECRET}"',
        f'{{"{SECRET}": 1}}',
        f'{{"features": "{SECRET}"}}',
        f'{{"features": [{SECRET}]}}',
        f'{{"features": [[{SECRET}]]}}',
        f'{{"features": [[1, 1], [{SECRET}]]}}',
        f'{{"features": [[{SECRET}, 1]]}}',
        f'{{"features": [[1, 0.{SECRET}]]}}',
        f'{{"features": [["{SECRET}", 1]]}}',
        f'{{"features": [[{{"{SECRET}": 1}}, 1]]}}',
        f'{{"features": [[{SECRET}e400, 1]]}}',
        f'{{"features": [[1, 1]], "rows": [{{"{SECRET}": 1}}]}}',
        f'{{"rows": "{SECRET}"}}',
        f'{{"rows": ["{SECRET}"]}}',
        f'{{"rows": [{{"{SECRET}": 1}}]}}',
        f'{{"rows": [{{"AMOUNT": 1, "NIGHT": 1, "{SECRET}": 1}}]}}',
        f'{{"rows": [{{"AMOUNT": "{SECRET}", "NIGHT": 1}}]}}',
        f'{{"rows": [{{"AMOUNT": {SECRET}}}]}}',
        f'{{"features": [[{SECRET}',
        f'{{"rows": [{{"AMOUNT": 1, "AMOUNT": {SECRET}, "NIGHT": 1}}]}}',
    ],
)
def test_a_refusal_never_repeats_what_was_sent(body: str) -> None:
    with pytest.raises(Refusal) as refused:
        codec.Decoder(AMOUNTS)(body.encode(), max_rows=10)
    assert SECRET not in json.dumps(refused.value.body("id-1"))


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: type(refusal).__name__)
def test_a_refusal_survives_pickling_on_its_way_between_processes(refusal: Refusal) -> None:
    copy = pickle.loads(pickle.dumps(refusal))
    assert type(copy) is type(refusal)
    assert (str(copy), copy.facts, copy.body("id")) == (str(refusal), refusal.facts, refusal.body("id"))


def test_facts_of_any_name_are_read_from_a_body() -> None:
    refusal = Refusal.from_body(400, {"error": "x", "code": "no_rows", "request_id": "r", "message": 1, "self": 2})
    assert refusal.facts == {"message": 1, "self": 2}
