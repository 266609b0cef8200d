"""The reference: rows are counted on its bins, once each, and reference.json gives it back, also an old one."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from causeway.contract import Array
from causeway.drift.reference import MIN_ROWS, SIZES, Reference
from causeway.errors import ReferenceBroken
from tests.drift.tiny import HELD_OUT, NAMES, TIMED, TRAINING, UNTIMED, rows, scores

BEFORE = {
    "x": {
        "rows": 100,
        "edges": [1.0, 2.0],
        "counts": [50, 30, 20],
        "mean": 1.2,
        "standard_deviation": 1.0,
        "minimum": 0.0,
        "maximum": 9.0,
    },
    "p": {
        "rows": 40,
        "edges": [],
        "counts": [40],
        "mean": 0.5,
        "standard_deviation": 0.0,
        "minimum": 0.5,
        "maximum": 0.5,
    },
}


@given(arrays(np.float32, st.integers(0, 200), elements=st.floats(-(2.0**99), 2.0**99, width=32)))
def test_every_value_is_in_the_bin_that_the_edges_say(values: Array) -> None:
    X = np.column_stack([values, values, values])
    counts = UNTIMED.count(X, values).counts
    for column, counted in zip(UNTIMED.columns, counts, strict=True):
        expected = np.bincount(np.searchsorted(column.edges, values), minlength=len(column.counts))
        np.testing.assert_array_equal(counted, expected)


def test_the_held_out_rows_count_as_the_reference_says() -> None:
    counted = TIMED.count(HELD_OUT, scores(HELD_OUT))
    learnt = TIMED.count(TRAINING, scores(TRAINING))
    for place, column in enumerate(TIMED.columns):
        assert counted.counts[place].tolist() == column.counts
        assert counted.means[place] == pytest.approx(column.mean)
        assert counted.standard_deviations[place] == pytest.approx(column.standard_deviation, abs=1e-6)
        assert column.training_counts == (None if column.name == "p" else learnt.counts[place].tolist())


def test_a_score_that_is_no_number_is_missing_and_its_row_counts() -> None:
    p = np.array([0.5, np.nan, np.inf, 0.25], dtype=np.float32)
    counted = UNTIMED.count(rows(4, 0), p)
    assert counted.rows == 4
    assert counted.missing.tolist() == [0, 0, 0, 2]
    assert counted.n_values.tolist() == [4, 4, 4, 2]
    assert counted.sums[-1] == 0.75


def test_rows_of_another_width_are_not_counted() -> None:
    with pytest.raises(ValueError, match="zip"):
        UNTIMED.count(np.zeros((3, 2), dtype=np.float32), np.zeros(3))


def test_refused_rows_are_told_by_the_column_at_fault() -> None:
    window = UNTIMED.refused({"amount": 3}, {"night": 2})
    assert window.rows == 0
    assert window.missing.tolist() == [3, 0, 0, 0]
    assert window.out_of_range.tolist() == [0, 2, 0, 0]
    with pytest.raises(KeyError):
        UNTIMED.refused({"nothing": 1}, {})


def test_a_reference_survives_json_and_is_a_line_a_column() -> None:
    data = TIMED.to_json()
    assert Reference.from_json(data) == TIMED
    assert [column["name"] for column in json.loads(data)["columns"]] == list(NAMES)
    assert data.count(b"\n") == len(NAMES) + 2


def test_a_reference_saved_before_there_were_thresholds_loads_and_has_none() -> None:
    reference = Reference.from_json(json.dumps(BEFORE).encode())
    assert reference.names == ("x", "p")
    assert reference.rate is None
    assert reference.columns[0].threshold("psi", 1_000) is None
    X = np.array([[-1], [0], [1], [1.5], [9], [9.5]], dtype=np.float32)
    window = reference.count(X, np.full(6, 0.5))
    assert [counts.tolist() for counts in window.counts] == [[1, 2, 1, 1, 1], [0, 6, 0]]


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"x": {}}', b'{"columns": []}', b'{"rate": 1, "columns": [{}]}'])
def test_what_is_no_reference_is_refused(data: bytes) -> None:
    with pytest.raises(ReferenceBroken):
        Reference.from_json(data)


@pytest.mark.parametrize("change", [{"counts": [1]}, {"training_counts": [1, 2]}, {"thresholds": {"psi": [1.0]}}])
def test_a_column_that_contradicts_itself_is_refused(change: dict[str, object]) -> None:
    saved = json.loads(TIMED.to_json())
    saved["columns"][0] |= change
    with pytest.raises(ReferenceBroken):
        Reference.from_json(json.dumps(saved).encode())


@pytest.mark.parametrize("place", [0, 1, 3])
def test_thresholds_for_independent_rows_fall_until_a_shift_is_too_small_to_matter(place: int) -> None:
    column = UNTIMED.columns[place]
    for name in ("psi", "ks"):
        few, telling, *more = (column.threshold(name, n) or 0.0 for n in (*SIZES, 10 * SIZES[-1]))
        assert few > telling
        assert all(telling * 0.999 <= threshold < few for threshold in more)


def test_what_varies_with_time_has_thresholds_that_fall_with_the_rows() -> None:
    column = TIMED.columns[0]
    thresholds = [column.threshold("psi", n) or 0.0 for n in SIZES]
    independent = UNTIMED.columns[0].threshold("psi", 1_000) or 0.0
    assert thresholds[0] > thresholds[2] > 0.9 * independent


def test_there_are_no_thresholds_for_few_rows() -> None:
    column = UNTIMED.columns[0]
    assert column.threshold("psi", MIN_ROWS - 1) is None
    assert column.threshold("psi", MIN_ROWS) is not None


def test_a_threshold_between_two_sizes_is_between_theirs() -> None:
    low, middle, high = (UNTIMED.columns[0].threshold("psi", n) or 0.0 for n in (250, 500, 1_000))
    assert high < middle < low
