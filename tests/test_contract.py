"""Rows become one float32 array or a refusal, whichever way they come."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causeway import errors
from causeway.contract import (
    FLOAT32_MAX,
    PRECISION_TOLERANCE,
    SUGGESTED_FROM,
    Contract,
    Feature,
    Output,
    explain_features,
    explain_rows,
)
from models.transactions import CONTRACT

SMALL = Contract(
    (
        Feature("amount", minimum=0, maximum=1000),
        Feature("night", "integer", 0, 1),
        Feature("score", minimum=-0.1, maximum=0.1),
        Feature("anything"),
    ),
    Output("p"),
)


def valid_value(feature: Feature) -> st.SearchStrategy[float]:
    if feature.dtype == "integer":
        return st.integers(math.ceil(feature.minimum), math.floor(feature.maximum)).map(float)
    return st.floats(feature.minimum, feature.maximum)


def valid_rows(contract: Contract) -> st.SearchStrategy[list[list[float]]]:
    row = st.tuples(*map(valid_value, contract.features)).map(list)
    return st.lists(row, min_size=1, max_size=5)


def numbers() -> st.SearchStrategy[float]:
    """Anything that a decoder may take for a number; often a good value of SMALL."""
    return st.one_of(st.sampled_from([0.0, 1.0, 0.1, -0.1, 0.5, 1000.0]), st.floats())


def named(contract: Contract, rows: list[list[float]]) -> list[dict[str, float]]:
    return [dict(zip(contract.names, row, strict=True)) for row in rows]


def told(refusal: errors.Refusal | None) -> tuple[str, dict[str, Any]] | None:
    return None if refusal is None else (refusal.code, dict(refusal.facts))


def outcome(contract: Contract, method: str, rows: Any) -> tuple[str, dict[str, Any]] | None:
    try:
        getattr(contract, method)(rows)
    except errors.BadRequest as refusal:
        return told(refusal)
    return None


NAMES = st.characters(min_codepoint=32, exclude_characters='"\\', exclude_categories=["Cs"])
features_of_a_contract = st.lists(
    st.builds(
        lambda name, dtype, bounds, description: Feature(name, dtype, min(bounds), max(bounds), description),
        st.text(
            st.characters(min_codepoint=32, exclude_characters='"\\', exclude_categories=["Cs"]), min_size=1, max_size=8
        ),
        st.sampled_from(["float", "integer"]),
        st.tuples(*[st.floats(-FLOAT32_MAX, FLOAT32_MAX)] * 2),
        st.text(max_size=8),
    ),
    min_size=1,
    max_size=5,
    unique_by=lambda feature: feature.name,
)


@given(features_of_a_contract, st.builds(Output, st.text(min_size=1), st.integers(1, 9)))
def test_contract_json_reads_back_as_the_same_contract(features: list[Feature], output: Output) -> None:
    contract = Contract(tuple(features), output)
    assert Contract.from_json(contract.to_json()) == contract


@pytest.mark.parametrize(
    "change",
    [
        {"features": []},
        {"features": [{"name": ""}]},
        *({"features": [{"name": f"a{character}"}]} for character in '"\\\n'),
        {"features": [{"name": "a"}, {"name": "a"}]},
        {"features": [{"name": "a", "minimum": 2, "maximum": 1}]},
        {"features": [{"name": "a", "maximum": 1e39}]},
        {"features": [{"name": "a", "dtype": "string"}]},
        {"features": [{"name": "a", "unit": "EUR"}]},
        {"output": None},
    ],
    ids=str,
)
def test_a_contract_that_makes_no_sense_is_not_read(change: dict[str, Any]) -> None:
    document = {"features": [{"name": "a"}], "output": {"name": "p"}}
    assert Contract.from_json(json.dumps(document).encode()).names == ("a",)
    with pytest.raises(msgspec.ValidationError):
        Contract.from_json(json.dumps({**document, **change}).encode())


def test_a_feature_needs_bounds_that_are_numbers() -> None:
    with pytest.raises(ValueError, match="minimum and maximum"):
        Feature("a", minimum=math.nan)


@given(valid_rows(SMALL))
def test_valid_rows_become_the_nearest_32_bit_floats(rows: list[list[float]]) -> None:
    X = SMALL.from_features(rows)
    assert X.dtype == np.float32
    assert X.tolist() == [[float(np.float32(value)) for value in row] for row in rows]


@given(valid_rows(CONTRACT), st.randoms(use_true_random=False))
def test_rows_by_name_equal_rows_in_order_whatever_the_order_of_names(rows: list[list[float]], random: Any) -> None:
    shuffled = [dict(random.sample(sorted(row.items()), len(row))) for row in named(CONTRACT, rows)]
    np.testing.assert_array_equal(CONTRACT.from_rows(shuffled), CONTRACT.from_features(rows))


@pytest.mark.parametrize("column", range(len(CONTRACT.names)), ids=CONTRACT.names)
def test_bounds_are_inclusive_and_hard(column: int) -> None:
    feature = CONTRACT.features[column]
    row = [feature.minimum for feature in CONTRACT.features]
    for bound, outside in (feature.minimum, -math.inf), (feature.maximum, math.inf):
        row[column] = bound
        assert CONTRACT.from_features([row])[0, column] == np.float32(bound)
        row[column] = math.nextafter(bound, outside)
        with pytest.raises(errors.OutOfRange) as refusal:
            CONTRACT.from_features([row])
        assert (refusal.value.row, refusal.value.column, refusal.value.name) == (0, column, feature.name)
        assert (refusal.value.minimum, refusal.value.maximum) == (feature.minimum, feature.maximum)


def test_an_integer_feature_takes_any_whole_number_however_it_is_written_and_no_other() -> None:
    assert SMALL.from_features([[1, 1.0, 0, 0]]).tolist() == [[1, 1, 0, 0]]
    with pytest.raises(errors.NotAnInteger) as refusal:
        SMALL.from_features([[1, 1, 0, 0], [1, 0.5, 0, 0]])
    assert refusal.value.facts == {"row": 1, "column": 1, "name": "night"}


BAD = [
    ("feature_not_finite", math.nan),
    ("feature_not_finite", -math.inf),
    ("feature_out_of_range", 1e300),
    ("feature_out_of_range", -1e300),
    ("feature_not_an_integer", 0.5),
]


@given(valid_rows(SMALL), st.data())
def test_of_several_bad_values_the_first_in_reading_order_is_named(
    rows: list[list[float]], data: st.DataObject
) -> None:
    first = None
    for row, values in enumerate(rows):
        for column, feature in enumerate(SMALL.features):
            bad = BAD if feature.dtype == "integer" else BAD[:-1]
            code, value = data.draw(st.none() | st.sampled_from(bad)) or (None, values[column])
            values[column] = value
            first = first or (code and (code, row, column))
    for refusal in outcome(SMALL, "from_features", rows), outcome(SMALL, "from_rows", named(SMALL, rows)):
        assert (refusal and (refusal[0], refusal[1]["row"], refusal[1]["column"])) == first


@given(st.lists(st.lists(numbers(), max_size=5), max_size=4))
def test_the_fast_and_the_explaining_path_agree_on_rows_in_order(rows: list[list[float]]) -> None:
    assert outcome(SMALL, "from_features", rows) == told(explain_features(SMALL, rows))


@given(st.lists(st.lists(numbers(), min_size=4, max_size=4), min_size=1, max_size=4))
def test_they_agree_on_values(rows: list[list[float]]) -> None:
    expected = told(explain_features(SMALL, rows))
    assert outcome(SMALL, "from_features", rows) == expected
    assert outcome(SMALL, "from_rows", named(SMALL, rows)) == expected == told(explain_rows(SMALL, named(SMALL, rows)))


@given(
    st.lists(
        st.one_of(
            st.fixed_dictionaries({name: numbers() for name in SMALL.names}),
            st.dictionaries(st.sampled_from([*SMALL.names, "Amount", "other"]), numbers(), max_size=5),
        ),
        max_size=4,
    )
)
def test_they_agree_on_rows_by_name(rows: list[dict[str, float]]) -> None:
    assert outcome(SMALL, "from_rows", rows) == told(explain_rows(SMALL, rows))


json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers(), st.integers(), st.text(max_size=3)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.sampled_from(SMALL.names) | st.text(), inner),
    max_leaves=20,
)


@given(json_values)
def test_every_json_value_has_an_explanation_or_no_fault(value: Any) -> None:
    for explain, method in (explain_features, "from_features"), (explain_rows, "from_rows"):
        fault = explain(SMALL, value)
        assert fault is None or fault.status == 400
        if fault is None:
            assert outcome(SMALL, method, value) is None


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("Amount", "amount"), ("AMOUNT", "amount"), ("amuont", "amount"), ("nihgt", "night"), ("zzz", None), ("", None)],
)
def test_an_unknown_name_gets_the_nearest_known_one(name: str, suggestion: str | None) -> None:
    with pytest.raises(errors.UnknownName) as refusal:
        SMALL.from_rows([{**named(SMALL, [[1, 1, 0, 0]])[0], name: 1}])
    assert refusal.value.suggestion == suggestion


def test_a_contract_of_very_many_names_gives_no_suggestion() -> None:
    wide = Contract(tuple(Feature(f"feature_{i}") for i in range(SUGGESTED_FROM + 1)), Output("p"))
    with pytest.raises(errors.UnknownName) as refusal:
        wide.from_rows([{"feature_A": 1}])
    assert refusal.value.suggestion is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_array_of_either_float_type_is_taken(dtype: type[np.floating[Any]]) -> None:
    X = SMALL.from_array(np.array([[1, 0, 0, 5]], dtype=dtype))
    assert X.dtype == np.float32
    assert X.tolist() == [[1, 0, 0, 5]]


A, B = Feature("a", minimum=0, maximum=10), Feature("b", "integer", 0, 1)


def test_a_tolerance_is_part_of_the_contract_and_told_where_it_is_not_the_default() -> None:
    plain = Contract((Feature("a"),), Output("p"))
    assert plain.output.tolerance == PRECISION_TOLERANCE["fp32"]
    assert b"tolerance" not in plain.to_json()
    half = Contract((Feature("a"),), Output("p", tolerance=PRECISION_TOLERANCE["fp16"]))
    assert Contract.from_json(half.to_json()) == half
    assert half.narrower_than(plain) is None


@pytest.mark.parametrize("tolerance", [-1e-5, float("nan"), float("inf")])
def test_a_tolerance_that_means_nothing_is_refused(tolerance: float) -> None:
    with pytest.raises(ValueError, match="p: tolerance must be a number from 0 on"):
        Output("p", tolerance=tolerance)


CHAMPION = Contract((A, B), Output("p"))


@pytest.mark.parametrize(
    "other",
    [
        CHAMPION,
        Contract((Feature("a", minimum=-1, maximum=11, description="wider"), B), Output("p", description="the same")),
        Contract((Feature("a"), Feature("b", "float", 0, 1)), Output("p", minimum=-1, maximum=2)),
    ],
    ids=["the same", "wider", "any number and another scale"],
)
def test_a_contract_that_takes_no_less_and_gives_the_same_is_not_narrower(other: Contract) -> None:
    assert other.narrower_than(CHAMPION) is None


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (Contract((Feature("a", minimum=1, maximum=10), B), Output("p")), "a may be 1 to 10, not 0 to 10"),
        (Contract((Feature("a", minimum=0, maximum=9.5), B), Output("p")), "a may be 0 to 9.5, not 0 to 10"),
        (Contract((Feature("a", "integer", 0, 10), B), Output("p")), "a must be a whole number"),
        (Contract((B, A), Output("p")), "its features are others, or in another order"),
        (Contract((A, Feature("c")), Output("p")), "its features are others, or in another order: b, c"),
        (Contract((A,), Output("p")), "its features are others, or in another order: b"),
        (Contract((A, B, Feature("c")), Output("p")), "its features are others, or in another order: c"),
        (Contract((A, B), Output("q")), "it predicts q (1), not p (1)"),
        (Contract((A, B), Output("p", 2)), "it predicts p (2), not p (1)"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_narrower_contract_says_where(other: Contract, reason: str) -> None:
    assert re.fullmatch(re.escape(reason), other.narrower_than(CHAMPION) or "")


def valid_or_not(feature: Feature) -> st.SearchStrategy[float]:
    inside = st.floats(feature.minimum, feature.maximum)
    return inside.map(math.floor).map(float) if feature.dtype == "integer" else inside


@given(features_of_a_contract, features_of_a_contract, st.data())
def test_what_one_contract_takes_another_that_is_not_narrower_takes_too(
    features: list[Feature], others: list[Feature], data: st.DataObject
) -> None:
    def around(mine: Feature, other: Feature) -> Feature:
        low, high = min(mine.minimum, other.minimum), max(mine.maximum, other.maximum)
        return Feature(mine.name, data.draw(st.sampled_from([mine.dtype, other.dtype, "float"])), low, high)

    pairs = list(zip(features, others, strict=False))
    here = Contract(tuple(mine for mine, _ in pairs), Output("p"))
    there = Contract(tuple(around(*pair) for pair in pairs), Output("p"))
    row = [data.draw(st.sampled_from([mine.minimum, mine.maximum]) | valid_or_not(mine)) for mine in here.features]
    if outcome(here, "from_features", [row]) is None and there.narrower_than(here) is None:
        assert outcome(there, "from_features", [row]) is None
