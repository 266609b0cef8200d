"""Tables become datasets or are refused in words that say what to do; splits keep time and labels apart."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from causeway.contract import Contract, Feature, Output
from causeway.errors import TableRefused
from causeway.training.dataset import MIN_PER_LABEL, MIN_ROWS, Dataset, split

CONTRACT = Contract((Feature("amount", minimum=0), Feature("night", "integer", 0, 1)), Output("p"))


def table(n: int = 1200, days: int = 21) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "amount": rng.uniform(0, 100, n),
            "night": rng.integers(0, 2, n),
            "when": pd.Timestamp("2024-01-01") + pd.to_timedelta(np.arange(n) * days * 86_400 // n, unit="s"),
            "card": rng.integers(0, 2000, n),
            "label": rng.random(n) < 0.3,
        }
    )


def dataset(frame: pd.DataFrame) -> Dataset:
    return Dataset.from_table(CONTRACT, frame, "label", source="a table", time="when", entity="card")


def test_a_table_becomes_features_in_contract_order() -> None:
    frame = table()
    data = dataset(frame[["night", "label", "card", "amount", "when"]])
    assert data.X.dtype == np.float32
    np.testing.assert_array_equal(data.X, frame[["amount", "night"]].to_numpy(dtype=np.float32))
    np.testing.assert_array_equal(data.y, frame["label"].astype(int))


def test_times_with_a_zone_and_entities_by_name_are_taken_like_those_without() -> None:
    frame = table()
    other = frame.assign(when=frame["when"].dt.tz_localize("UTC").astype(str), card="card " + frame["card"].astype(str))
    plain, zoned = dataset(frame), dataset(other)
    assert plain.time is not None
    assert zoned.time is not None
    np.testing.assert_array_equal(zoned.time, plain.time)
    np.testing.assert_array_equal(split(zoned).test.X, split(plain).test.X)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t.drop(columns=["amount", "night"]), "lacks 2 columns: amount, night; add"),
        (lambda t: t.drop(columns="label"), "lacks 1 column: label; add"),
        (lambda t: t.assign(label=0), "same label in all 1200 rows; bring rows of both labels"),
        (lambda t: t.assign(label=1), "same label in all 1200 rows"),
        (lambda t: t.assign(label=2), r"Label label: 1200 values, the first in row 0 \(2\), are neither 0 nor 1; map"),
        (lambda t: t.assign(label="fraud"), r"the first in row 0 \('fraud'\), are neither 0 nor 1"),
        (lambda t: t.assign(label=[0, None, *t["label"][2:]]), r"the value in row 1 \(None\) is neither 0 nor 1"),
        (lambda t: t.head(399), "has 399 rows; bring at least 400"),
        (lambda t: t.head(0), "has 0 rows"),
        (
            lambda t: t.assign(label=[1, *[0] * (len(t) - 1)]),
            "only 1 row of one label; bring at least 40",
        ),
        (
            lambda t: t.assign(amount="much"),
            r"Column amount: 1200 values, the first in row 0 \('much'\), are no finite",
        ),
        (
            lambda t: t.assign(amount=[1, np.nan, *t["amount"][2:]]),
            r"the value in row 1 \(nan\) is no finite number; fill",
        ),
        (lambda t: t.assign(amount=-1.0), r"column 0 \(amount\) must be between 0 and .*, not -1.0; correct the table"),
        (lambda t: t.assign(amount=np.inf), r"column 0 \(amount\) must be a finite number, not inf"),
        (lambda t: t.assign(night=0.5), r"column 1 \(night\) must be a whole number, not 0.5"),
        (
            lambda t: t.assign(card=[1, None, *t["card"][2:]]),
            r"Column card: the value in row 1 \(nan\) is missing; fill",
        ),
        (lambda t: t.assign(when="yesterday"), r"the first in row 0 \('yesterday'\), are no time; write times in ISO"),
        (lambda t: t.assign(when=[*t["when"][1:].astype(str), "soon"]), r"the value in row 1199 \('soon'\) is no time"),
        (lambda t: t.assign(when=7), "Column when holds numbers, not times; write times in ISO 8601"),
        (lambda t: t.assign(amount="x" * 1000), r"in row 0 \('x{12}\.\.\.x{13}'\)"),
    ],
)
def test_a_table_that_cannot_be_learnt_from_is_refused_with_what_to_do(change, words) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TableRefused, match=words):
        dataset(change(table()))


def test_a_split_by_time_keeps_the_delay_between_training_and_test() -> None:
    data = dataset(table(days=30))
    parts = split(data, delay_days=7, test_days=7)
    assert parts.train.time is not None
    assert parts.test.time is not None
    days = [part.time.astype("datetime64[D]") for part in (parts.train, parts.test)]
    assert str(days[0].min()) == "2024-01-01"
    assert str(days[0].max()) == "2024-01-16"
    assert str(days[1].min()) == "2024-01-24"
    assert str(days[1].max()) == "2024-01-30"
    assert parts.how.startswith("by time: 16 days for training, 7 days of delay, 7 days for testing")


def test_a_test_row_of_a_known_positive_entity_is_left_out_day_by_day() -> None:
    data = dataset(table(n=3000))
    assert data.time is not None
    assert data.entity is not None
    day = data.time.astype("datetime64[D]").astype(int)
    expected = []
    for row in np.flatnonzero(day >= day.max() - 6):
        same = data.entity == data.entity[row]
        if not (same & (data.y == 1) & (day < day[row] - 7)).any():
            expected.append(row)
    parts = split(dataclasses.replace(data), delay_days=7, test_days=7)
    np.testing.assert_array_equal(parts.test.X, data.X[expected])


def test_a_span_too_short_for_the_split_is_refused_with_the_way_out() -> None:
    with pytest.raises(TableRefused, match=r"spans 10 days, too few .* lower --delay-days and --test-days"):
        split(dataset(table(days=10)))
    parts = split(dataset(table(days=10)), delay_days=1, test_days=3)
    assert len(parts.train) > len(parts.test) > 0


def test_without_times_the_split_is_stratified_and_loses_no_row() -> None:
    data = dataset(table().drop(columns=["when", "card"]))
    parts = split(data, seed=1)
    assert len(parts.train) + len(parts.test) == len(data)
    assert parts.train.y.mean() == pytest.approx(parts.test.y.mean(), abs=0.01)
    np.testing.assert_array_equal(split(data, seed=1).test.X, parts.test.X)


@given(n=st.integers(400, 1000), label=st.sampled_from([0, 1]), few=st.integers(40, 200), seed=st.integers(0, 9))
def test_as_many_rows_as_a_refusal_asks_for_are_enough(n: int, label: int, few: int, seed: int) -> None:
    y = np.full(n, 1 - label, np.int8)
    y[:few] = label
    parts = split(Dataset(CONTRACT, np.zeros((n, 2), np.float32), y, "just enough"), seed=seed)
    for part in (parts.train, parts.test):
        assert len(part) >= MIN_ROWS
        assert min(part.y.sum(), (1 - part.y).sum()) >= MIN_PER_LABEL


def test_a_family_s_own_data_are_refused_with_the_same_number() -> None:
    with pytest.raises(TableRefused, match="The table has 399 rows; bring at least 400"):
        split(Dataset(CONTRACT, np.zeros((399, 2), np.float32), np.arange(399, dtype=np.int8) % 2, "too few"))


def test_a_part_without_enough_positives_is_refused() -> None:
    frame = table()
    frame.loc[frame["when"] >= "2024-01-15", "label"] = False
    with pytest.raises(TableRefused, match="The test part has the same label"):
        split(dataset(frame))


def test_the_fingerprint_changes_with_any_value() -> None:
    data = dataset(table())
    assert data.fingerprint() == dataset(table()).fingerprint()
    X, y = data.X.copy(), data.y.copy()
    X[3, 0] += 1
    y[5] ^= 1
    assert data.time is not None
    others = [
        dataclasses.replace(data, X=X),
        dataclasses.replace(data, y=y),
        dataclasses.replace(data, time=data.time + np.timedelta64(1, "s")),
    ]
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == 4
