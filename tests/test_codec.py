"""A body becomes the array that a naive decoder would make of it, or the refusal that names its first fault."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from causeway import codec, errors
from causeway.contract import Array, Contract, Feature, Output
from tests.test_contract import SMALL, json_values, named, numbers, told, valid_rows

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
MAX_ROWS = 5
ROW = [12.5, 1.0, 0.05, -3.0]
GOOD = json.dumps({"features": [ROW]})


def decode(body: str | bytes, contract: Contract = SMALL, max_rows: int = MAX_ROWS) -> Array:
    return codec.Decoder(contract)(body.encode() if isinstance(body, str) else body, max_rows)


def outcome(body: bytes) -> Array | errors.Refusal:
    try:
        return decode(body)
    except errors.Refusal as refusal:
        return refusal


def refusal(body: str | bytes) -> tuple[str, dict[str, Any]] | None:
    with pytest.raises(errors.Refusal) as raised:
        decode(body)
    return told(raised.value)


def naive(body: bytes) -> list[list[float]]:
    """The rows of a body that is known to be good, by the shortest way."""
    value = json.loads(body)
    rows = value.get("features") or [[row[name] for name in SMALL.names] for row in value["rows"]]
    return [[float(np.float32(float(cell))) for cell in row] for row in rows]


def with_cell(text: str, column: int = 0) -> str:
    """A good body with another text in one place of its second row."""
    cells = [json.dumps(cell) for cell in ROW]
    first, cells[column] = ", ".join(cells), text
    return f'{{"features": [[{first}], [{", ".join(cells)}]]}}'


@given(valid_rows(SMALL), st.booleans(), st.sampled_from([None, 1, "\t"]))
def test_a_good_body_becomes_its_rows(rows: list[list[float]], by_name: bool, indent: str | int | None) -> None:
    body = json.dumps({"rows": named(SMALL, rows)} if by_name else {"features": rows}, indent=indent).encode()
    X = decode(body)
    assert X.dtype == np.float32
    assert X.tolist() == naive(body)


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,30})?([eE](-[0-9]{1,3}|\+?[0-9]))?", fullmatch=True))
@example("-0.0")
@example("-0")
@example("1e-400")
@example("0." + "1" * 5000)
@example("9007199254740993")
@example("0.1000000014901161193847656250000000000001")
@example("340282346638528859811704183484516925440")
def test_a_number_means_the_float_that_python_reads(text: str) -> None:
    contract = Contract((Feature("x"),), Output("p"))
    X = decode(f'{{"features": [[{text}]]}}', contract)
    assert X.tolist() == [[float(np.float32(text))]]


@given(st.binary(max_size=60))
@example(b"")
@example(b"\xef\xbb\xbf" + GOOD.encode())
@example(GOOD.encode("utf-16"))
@example(b"[" * 100_000)
@example(b'{"features":' + b"[" * 100_000)
@example(b'{"x":' * 100_000)
def test_whatever_the_bytes_are_they_are_decoded_or_refused(body: bytes) -> None:
    result = outcome(body)
    assert not isinstance(result, errors.Refusal) or result.status in (400, 413)


@given(valid_rows(SMALL), st.booleans(), st.data())
def test_a_good_body_with_changed_bytes_is_decoded_like_the_naive_way_or_refused(
    rows: list[list[float]], by_name: bool, data: st.DataObject
) -> None:
    body = bytearray(json.dumps({"rows": named(SMALL, rows)} if by_name else {"features": rows}).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(body)))
        replaced = data.draw(
            st.binary(max_size=2) | st.sampled_from([b",", b"]", b"[", b'"', b"}", b"e", b"-", b"null"])
        )
        body[start : start + data.draw(st.integers(0, 3))] = replaced
    result = outcome(bytes(body))
    assert (
        (result.status in (400, 413)) if isinstance(result, errors.Refusal) else result.tolist() == naive(bytes(body))
    )


bodies = st.fixed_dictionaries(
    {},
    optional={
        "features": json_values | st.lists(st.lists(numbers(), min_size=4, max_size=4), max_size=7),
        "rows": json_values | st.lists(st.fixed_dictionaries({name: numbers() for name in SMALL.names}), max_size=7),
        "note": json_values,
    },
)


@given(bodies | json_values)
def test_the_fast_path_and_the_explaining_path_come_to_the_same(value: Any) -> None:
    body = json.dumps(value).encode()
    try:
        explained = codec._explain(json.loads(body), SMALL, MAX_ROWS)
    except errors.Refusal as refusal:
        explained = refusal
    result = outcome(body)
    if isinstance(result, errors.Refusal):
        assert told(result) == told(explained)
    else:  # no fault in the rows: then "not JSON" is all that _explain can say
        assert explained.code == "body_not_json"
        assert result.tolist() == naive(body)


@pytest.mark.parametrize(
    "text",
    ["NaN", "Infinity", "-Infinity", "1e400", "-1E400", "1" + "0" * 400, "9" * 5000, "-" + "9" * 5000],
    ids=lambda text: text[:12],
)
@pytest.mark.parametrize("column", range(4))
def test_a_number_that_is_not_finite_is_named_by_row_and_column(text: str, column: int) -> None:
    place = {"row": 1, "column": column, "name": SMALL.names[column]}
    assert refusal(with_cell(text, column)) == ("feature_not_finite", place)


@pytest.mark.parametrize("text", ["01", "+1", ".5", "1.", "0x1", "1_0", "1e", "--1", "٣", "1 2", "", "nan", "inf"])
def test_what_json_does_not_allow_as_a_number_is_not_json(text: str) -> None:
    assert refusal(with_cell(text)) == ("body_not_json", {})


@pytest.mark.parametrize(
    "body",
    [
        GOOD + "x",
        GOOD + GOOD,
        GOOD[:-1],
        GOOD[:-1] + ",}",
        GOOD.replace('"', "'"),
        "/**/" + GOOD,
        '{"note": NaN, ' + GOOD[1:],
        '{"note": "\x01", ' + GOOD[1:],
        '{"note": "\\q", ' + GOOD[1:],
        "\ufeff" + GOOD,
        GOOD.encode("utf-16"),
        b'{"note": "\xff", ' + GOOD[1:].encode(),
        b'{"\xff": 1, ' + GOOD[1:].encode(),
        b'{"note": "\xc0\xaf", ' + GOOD[1:].encode(),
        b'{"note": "\xed\xa0\x80", ' + GOOD[1:].encode(),
    ],
    ids=repr,
)
def test_a_body_that_is_not_json_in_utf_8_is_refused_even_where_nobody_looks(body: str | bytes) -> None:
    assert refusal(body) == ("body_not_json", {})


@pytest.mark.parametrize(
    "note",
    ["1E400", "9" * 5000, "[" * 500 + "]" * 500, '{"a": {"a": 1}}', '"é"', "null", "true", '"a:b, c:d"'],
    ids=lambda note: note[:12],
)
def test_other_fields_are_ignored(note: str) -> None:
    assert decode(f'{{"note": {note}, {GOOD[1:]}').tolist() == decode(GOOD).tolist()
    assert decode(f'{GOOD[:-1]}, "note": {note}}}').tolist() == decode(GOOD).tolist()


def test_null_is_a_field_that_is_not_there() -> None:
    assert decode('{"rows": null, ' + GOOD[1:]).tolist() == decode(GOOD).tolist()
    assert refusal('{"features": null}') == refusal('{"features": null, "rows": null}') == ("features_missing", {})


ROW_BY_NAME = json.dumps(named(SMALL, [ROW])[0])


@pytest.mark.parametrize(
    "body",
    [
        '{"features": [], ' + GOOD[1:],
        '{"features": "x", ' + GOOD[1:],
        GOOD[:-1] + ', "features": null}',
        GOOD.replace("features", "f\\u0065atures")[:-1] + ", " + GOOD[1:],
        f'{{"rows": [{ROW_BY_NAME[:-1]}, "amount": 9}}]}}',
        f'{{"rows": [{ROW_BY_NAME}, {{"amount": "x", {ROW_BY_NAME[1:]}]}}',
        '{"note": [{"a": 1, "a": 2}], ' + GOOD[1:],
    ],
    ids=lambda body: body[:40],
)
def test_a_name_that_is_given_twice_is_refused_wherever_it_stands(body: str) -> None:
    assert refusal(body) == ("name_repeated", {})


def test_names_may_contain_what_json_is_made_of() -> None:
    contract = Contract((Feature("a:b, 'c'"), Feature("[{é}]")), Output("p"))
    row = {"a:b, 'c'": 1.0, "[{é}]": 2.0}
    assert decode(json.dumps({"rows": [row, row]}), contract).tolist() == [[1, 2], [1, 2]]
    assert decode(json.dumps({"rows": [row]}, ensure_ascii=False), contract).tolist() == [[1, 2]]


@pytest.mark.parametrize("rows", [MAX_ROWS + 1, 1000])
@pytest.mark.parametrize("row", [ROW, named(SMALL, [ROW])[0], None, []], ids=str)
def test_rows_beyond_the_limit_are_counted_before_they_are_looked_at(rows: int, row: object) -> None:
    field = "rows" if isinstance(row, dict) else "features"
    expected = ("too_many_rows", {"limit_rows": MAX_ROWS, "got": rows})
    assert refusal(json.dumps({field: [row] * rows})) == expected


@pytest.mark.parametrize(
    "body",
    [
        '{"features": [' + "[]," * 500_000 + "[]]}",
        '{"features": [' + "[]," * 500_000,
        '{"features": [[' + "0," * 500_000 + "0]]}",
        '{"rows": [{' + ",".join(f'"{i}":1' for i in range(500_000)) + "}]}",
        '{"note": [' + "{}," * 500_000 + "{}], " + GOOD[1:],
    ],
    ids=lambda body: body[:20],
)
def test_a_body_of_absurdly_many_values_is_refused_without_decoding_it(body: str) -> None:
    assert refusal(body) == ("too_many_rows", {"limit_rows": MAX_ROWS})


def test_the_most_rows_that_are_allowed_are_decoded_in_both_forms() -> None:
    rows = [ROW] * 100_000
    for value in {"features": rows}, {"rows": named(SMALL, rows)}:
        assert decode(json.dumps(value), max_rows=len(rows)).shape == (100_000, 4)


@given(st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2)))
def test_predictions_read_back_as_the_same_32_bit_floats(predictions: list[list[float]]) -> None:
    array = np.array(predictions, dtype=np.float32).reshape(-1, 2)
    answer = json.loads(codec.Encoder("m:1", "champion")(array, "id", 1.23456))
    assert answer.keys() == codec.answer([], "m:1", "champion", "id", 1.23456).keys()
    read = np.array(answer["predictions"], dtype=np.float32).reshape(-1, 2)
    assert read.tobytes() == array.tobytes()
    assert answer["latency_ms"] == 1.235


def test_a_prediction_is_written_in_its_shortest_form() -> None:
    answer = codec.Encoder("m:1", "champion")(np.array([[0.1]], dtype=np.float32), "id", 1)
    assert b'"predictions":[[0.1]]' in answer
    assert math.isclose(json.loads(answer)["predictions"][0][0], 0.1, rel_tol=1e-9)


@given(TEXT, TEXT, TEXT)
def test_whatever_the_names_are_an_answer_is_json(model_version: str, variant: str, request_id: str) -> None:
    answer = codec.Encoder(model_version, variant)(np.zeros((1, 1), np.float32), request_id, 0.5)
    assert json.loads(answer) == codec.answer([[0.0]], model_version, variant, request_id, 0.5)


@pytest.mark.parametrize("n_rows", [1, codec.PIECE_ROWS, 2 * codec.PIECE_ROWS + 1])
def test_a_large_answer_is_the_same_as_in_one_piece(n_rows: int) -> None:
    encode = codec.Encoder("m:1", "champion")
    predictions = np.random.default_rng(0).random((n_rows, 2), dtype=np.float32)
    assert asyncio.run(encode.large(predictions, "id", 1.5)) == encode(predictions, "id", 1.5)
