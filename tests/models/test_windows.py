"""Window features equal their definitions, row by row, and know nothing that was unknown at the time of the row."""

from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.simulator import Simulation, simulate
from models.windows import DERIVED, REQUIRED, add_features

PUBLISHED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "handbook_2018-07-25_21d.parquet"
PUBLISHED_START = pd.Timestamp("2018-07-25")

FRIDAY = datetime.fromisoformat("2018-07-27")
DAY = timedelta(days=1)
SECOND = timedelta(seconds=1)

Row = tuple[datetime, int, int, float, int]


def table(rows: list[Row]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(REQUIRED))
    return frame.astype({"TX_DATETIME": "datetime64[s]", "TX_AMOUNT": "float64", "TX_FRAUD": "int8"})


def features(frame: pd.DataFrame, *, delay_days: int = 7) -> pd.DataFrame:
    return add_features(frame, delay_days=delay_days)[list(DERIVED)]


def by_definition(frame: pd.DataFrame, *, delay_days: int) -> pd.DataFrame:
    """The features written straight from their definitions: every row looks at every row."""
    rows: list[Row] = list(frame[list(REQUIRED)].itertuples(index=False, name=None))
    result = []
    for i, (t, customer, terminal, _, _) in enumerate(rows):
        made = {"TX_DURING_WEEKEND": float(t.weekday() in (5, 6)), "TX_DURING_NIGHT": float(t.hour in range(7))}
        for n in (1, 7, 30):
            spent = [
                Fraction(round(100 * amount), 100)
                for j, (when, who, _, amount, _) in enumerate(rows)
                if who == customer and t - n * DAY < when and (when, j) <= (t, i)
            ]
            made[f"CUSTOMER_ID_NB_TX_{n}DAY_WINDOW"] = len(spent)
            made[f"CUSTOMER_ID_AVG_AMOUNT_{n}DAY_WINDOW"] = float(sum(spent) / len(spent))
            known = t - delay_days * DAY
            labels = [label for when, _, at, _, label in rows if at == terminal and known - n * DAY < when <= known]
            made[f"TERMINAL_ID_NB_TX_{n}DAY_WINDOW"] = len(labels)
            made[f"TERMINAL_ID_RISK_{n}DAY_WINDOW"] = float(Fraction(sum(labels), max(len(labels), 1)))
        result.append(made)
    return pd.DataFrame(result, columns=list(DERIVED), index=frame.index, dtype="float32")


# Times on a grid of six hours, moved by a second at most, so that many rows fall together and many fall exactly on, or
# a second beside, the edge of a window.
times = st.builds(
    lambda step, jitter: FRIDAY + step * timedelta(hours=6) + jitter * SECOND,
    st.integers(0, 4 * 45),
    st.integers(-1, 1),
)
rows = st.tuples(
    times,
    st.integers(0, 2),
    st.integers(0, 2),
    st.integers(0, 30_000).map(lambda cents: cents / 100),
    st.integers(0, 1),
)
tables = st.lists(rows, min_size=1, max_size=40).map(table)
delays = st.integers(1, 9)


@settings(deadline=None)
@given(tables, delays)
def test_features_equal_their_definitions(frame: pd.DataFrame, delay_days: int) -> None:
    expected = by_definition(frame, delay_days=delay_days)
    pd.testing.assert_frame_equal(features(frame, delay_days=delay_days), expected, check_exact=True)


@settings(deadline=None)
@given(tables, delays, st.data())
def test_a_window_never_looks_into_the_future(frame: pd.DataFrame, delay_days: int, data: st.DataObject) -> None:
    now = data.draw(st.sampled_from(frame["TX_DATETIME"].tolist()))
    is_past = frame["TX_DATETIME"] <= now
    known = features(frame, delay_days=delay_days)[is_past]

    cut_off = features(frame[is_past], delay_days=delay_days)
    pd.testing.assert_frame_equal(cut_off, known, check_exact=True)

    other = frame.assign(
        TX_DATETIME=frame["TX_DATETIME"] + pd.Timedelta(hours=1),
        CUSTOMER_ID=0,
        TERMINAL_ID=0,
        TX_AMOUNT=3 * frame["TX_AMOUNT"] + 1,
        TX_FRAUD=1 - frame["TX_FRAUD"],
    )
    altered = features(frame.where(is_past, other).astype(frame.dtypes), delay_days=delay_days)[is_past]
    pd.testing.assert_frame_equal(altered, known, check_exact=True)


@settings(deadline=None)
@given(tables, delays, st.data())
def test_labels_younger_than_the_delay_are_unknown(frame: pd.DataFrame, delay_days: int, data: st.DataObject) -> None:
    now = data.draw(st.sampled_from(frame["TX_DATETIME"].tolist()))
    is_past = frame["TX_DATETIME"] <= now
    is_young = frame["TX_DATETIME"] > now - delay_days * DAY
    flipped = frame.assign(TX_FRAUD=frame["TX_FRAUD"].where(~is_young, 1 - frame["TX_FRAUD"]))
    before, after = features(frame, delay_days=delay_days), features(flipped, delay_days=delay_days)
    pd.testing.assert_frame_equal(after[is_past], before[is_past], check_exact=True)


def test_a_simulated_month_has_no_leak_either() -> None:
    frame = simulate(Simulation(n_customers=300, n_terminals=100, n_days=45, radius=20), seed=7)
    now = pd.Timestamp("2018-05-10 12:00")
    is_past = frame["TX_DATETIME"] <= now
    known = features(frame)[is_past]
    pd.testing.assert_frame_equal(features(frame[is_past]), known, check_exact=True)

    is_young = frame["TX_DATETIME"] > now - 7 * DAY
    flipped = frame.assign(TX_FRAUD=frame["TX_FRAUD"].where(~is_young, 1 - frame["TX_FRAUD"]))
    pd.testing.assert_frame_equal(features(flipped)[is_past], known, check_exact=True)


def test_the_derived_columns_are_the_fourteen_named_in_order_and_float32() -> None:
    made = add_features(table([(FRIDAY, 1, 1, 10.0, 0)]))
    assert list(made.columns) == [*REQUIRED, *DERIVED]
    assert DERIVED == (
        "TX_DURING_WEEKEND",
        "TX_DURING_NIGHT",
        "CUSTOMER_ID_NB_TX_1DAY_WINDOW",
        "CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW",
        "CUSTOMER_ID_NB_TX_7DAY_WINDOW",
        "CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW",
        "CUSTOMER_ID_NB_TX_30DAY_WINDOW",
        "CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW",
        "TERMINAL_ID_NB_TX_1DAY_WINDOW",
        "TERMINAL_ID_RISK_1DAY_WINDOW",
        "TERMINAL_ID_NB_TX_7DAY_WINDOW",
        "TERMINAL_ID_RISK_7DAY_WINDOW",
        "TERMINAL_ID_NB_TX_30DAY_WINDOW",
        "TERMINAL_ID_RISK_30DAY_WINDOW",
    )
    assert (made[list(DERIVED)].dtypes == "float32").all()


def test_rows_their_order_and_their_index_are_kept_and_the_input_is_untouched() -> None:
    frame = simulate(Simulation(n_customers=50, n_terminals=50, n_days=10, radius=50), seed=3)
    shuffled = frame.sample(frac=1, random_state=0).rename(index=lambda label: f"row {label}")
    original = shuffled.copy()
    made = add_features(shuffled)
    pd.testing.assert_frame_equal(made[list(frame.columns)], original, check_exact=True)
    pd.testing.assert_frame_equal(shuffled, original, check_exact=True)


def test_the_order_of_rows_does_not_matter_where_times_differ() -> None:
    frame = simulate(Simulation(n_customers=50, n_terminals=50, n_days=50, radius=50), seed=3)
    frame = frame.drop_duplicates("TX_DATETIME")
    shuffled = frame.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(features(shuffled).sort_index(), features(frame), check_exact=True)


def test_an_empty_table_gains_empty_columns() -> None:
    made = add_features(table([]))
    assert made.empty
    assert list(made.columns) == [*REQUIRED, *DERIVED]


def test_features_already_there_are_computed_anew() -> None:
    frame = simulate(Simulation(n_customers=50, n_terminals=50, n_days=10, radius=50), seed=3)
    made = add_features(frame)
    pd.testing.assert_frame_equal(add_features(made.assign(TX_DURING_NIGHT=9.0)), made, check_exact=True)


@pytest.mark.parametrize(
    ("when", "is_night"),
    [("00:00:00", 1), ("06:59:59", 1), ("07:00:00", 0), ("12:00:00", 0), ("23:59:59", 0)],
)
def test_night_lasts_from_midnight_to_the_end_of_hour_six(when: str, is_night: int) -> None:
    made = features(table([(datetime.fromisoformat(f"2018-07-27 {when}"), 1, 1, 1.0, 0)]))
    assert made.loc[0, "TX_DURING_NIGHT"] == is_night


@pytest.mark.parametrize(
    ("day", "is_weekend"), [("2018-07-27", 0), ("2018-07-28", 1), ("2018-07-29", 1), ("2018-07-30", 0)]
)
def test_the_weekend_is_saturday_and_sunday(day: str, is_weekend: int) -> None:
    for clock in ("00:00:00", "23:59:59"):
        made = features(table([(datetime.fromisoformat(f"{day} {clock}"), 1, 1, 1.0, 0)]))
        assert made.loc[0, "TX_DURING_WEEKEND"] == is_weekend


@pytest.mark.parametrize("n", [1, 7, 30])
def test_a_customer_window_leaves_out_what_is_exactly_n_days_old(n: int) -> None:
    rows = [(FRIDAY, 1, 1, 10.0, 0), (FRIDAY + SECOND, 1, 2, 20.0, 0), (FRIDAY + n * DAY, 1, 3, 60.0, 0)]
    last = features(table(rows)).iloc[-1]
    assert last[f"CUSTOMER_ID_NB_TX_{n}DAY_WINDOW"] == 2
    assert last[f"CUSTOMER_ID_AVG_AMOUNT_{n}DAY_WINDOW"] == 40


def test_of_rows_in_the_same_second_each_sees_those_above_it_and_itself() -> None:
    made = features(table([(FRIDAY, 1, terminal, amount, 0) for terminal, amount in ((1, 10.0), (2, 20.0), (3, 60.0))]))
    assert made["CUSTOMER_ID_NB_TX_1DAY_WINDOW"].tolist() == [1, 2, 3]
    assert made["CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW"].tolist() == [10, 15, 30]


@pytest.mark.parametrize("n", [1, 7, 30])
def test_a_terminal_window_ends_at_the_delay_and_includes_its_end(n: int) -> None:
    end = FRIDAY + (n + 7) * DAY
    rows = [
        (FRIDAY, 1, 1, 1.0, 1),  # exactly delay + n old: outside
        (FRIDAY + SECOND, 2, 1, 1.0, 1),
        (FRIDAY + n * DAY, 3, 1, 1.0, 0),  # exactly delay old: inside
        (FRIDAY + n * DAY + SECOND, 4, 1, 1.0, 1),  # too young
        (end, 5, 1, 1.0, 0),
    ]
    last = features(table(rows)).iloc[-1]
    assert last[f"TERMINAL_ID_NB_TX_{n}DAY_WINDOW"] == 2
    assert last[f"TERMINAL_ID_RISK_{n}DAY_WINDOW"] == 0.5


def test_risk_is_zero_where_no_label_is_known_yet() -> None:
    made = features(table([(FRIDAY, 1, 1, 1.0, 1), (FRIDAY + DAY, 1, 1, 1.0, 1)]))
    assert (made.filter(like="TERMINAL_ID") == 0).all(axis=None)


def test_cents_are_exact_after_a_fortune_has_passed_through_the_sums() -> None:
    rich = [(FRIDAY + i * SECOND, 0, 1, 1e9 + 0.01, 0) for i in range(1_000)]
    poor = [(FRIDAY + 40 * DAY + i * SECOND, 1, 1, 0.01, 0) for i in range(1_000)]
    made = features(table(rich + poor))
    assert (made["CUSTOMER_ID_AVG_AMOUNT_30DAY_WINDOW"].tail(1_000) == np.float32(0.01)).all()


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
def test_the_unit_of_the_times_does_not_matter(unit: str) -> None:
    frame = simulate(Simulation(n_customers=50, n_terminals=50, n_days=50, radius=50), seed=3)
    finer = frame.astype({"TX_DATETIME": f"datetime64[{unit}]"})
    pd.testing.assert_frame_equal(features(finer), features(frame), check_exact=True)


def test_identifiers_may_be_of_any_kind() -> None:
    frame = simulate(Simulation(n_customers=50, n_terminals=50, n_days=50, radius=50), seed=3)
    named = frame.assign(
        CUSTOMER_ID="card " + frame["CUSTOMER_ID"].astype(str),
        TERMINAL_ID=frame["TERMINAL_ID"].astype("int64") * 10**15,
    )
    pd.testing.assert_frame_equal(features(named), features(frame), check_exact=True)


def test_labels_may_be_booleans() -> None:
    frame = simulate(Simulation(n_customers=50, n_terminals=50, n_days=50, radius=50), seed=3)
    claims = frame.assign(TX_FRAUD=frame["TX_FRAUD"] == 1)
    pd.testing.assert_frame_equal(features(claims), features(frame), check_exact=True)


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_column_is_refused_by_name(name: str) -> None:
    with pytest.raises(ValueError, match=f"lack the columns {name}$"):
        add_features(table([(FRIDAY, 1, 1, 1.0, 0)]).drop(columns=name))


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_value_is_refused_by_the_name_of_its_column(name: str) -> None:
    frame = table([(FRIDAY, 1, 1, 1.0, 0), (FRIDAY, 1, 1, 1.0, 0)])
    with pytest.raises(ValueError, match=f"missing in the columns {name}$"):
        add_features(frame.assign(**{name: frame[name].where(np.array([True, False]))}))


@pytest.mark.parametrize("amount", [float("inf"), -float("inf"), 1e15])
def test_amounts_that_cannot_be_summed_exactly_are_refused(amount: float) -> None:
    with pytest.raises(ValueError, match="TX_AMOUNT must be finite"):
        add_features(table([(FRIDAY, 1, 1, amount, 0)]))


def test_a_label_other_than_0_and_1_is_refused() -> None:
    with pytest.raises(ValueError, match="TX_FRAUD must be 0 or 1"):
        add_features(table([(FRIDAY, 1, 1, 1.0, 2)]))


def test_times_that_are_not_datetimes_are_refused() -> None:
    with pytest.raises(ValueError, match="TX_DATETIME must hold datetimes, got int64"):
        add_features(table([(FRIDAY, 1, 1, 1.0, 0)]).assign(TX_DATETIME=np.array([1532649600])))


@pytest.mark.parametrize("delay_days", [0, -7])
def test_a_label_known_at_once_is_refused(delay_days: int) -> None:
    with pytest.raises(ValueError, match=f"delay_days must be at least 1, got {delay_days}"):
        add_features(table([(FRIDAY, 1, 1, 1.0, 0)]), delay_days=delay_days)


@pytest.fixture(scope="module")
def published() -> pd.DataFrame:
    if not PUBLISHED.exists():
        pytest.skip(f"the published transactions are not here: {PUBLISHED}")
    return pd.read_parquet(PUBLISHED)


@pytest.fixture(scope="module")
def ours(published: pd.DataFrame) -> pd.DataFrame:
    return features(published)


@pytest.fixture(scope="module")
def ours_with_ties_swapped(published: pd.DataFrame) -> pd.DataFrame:
    """The features when of rows in the same second the lower one counts as the earlier."""
    return features(published[::-1]).sort_index()


@pytest.mark.parametrize(
    ("name", "history_days"),
    [
        ("TX_DURING_WEEKEND", 0),
        ("TX_DURING_NIGHT", 0),
        ("CUSTOMER_ID_NB_TX_1DAY_WINDOW", 1),
        ("CUSTOMER_ID_AVG_AMOUNT_1DAY_WINDOW", 1),
        ("CUSTOMER_ID_NB_TX_7DAY_WINDOW", 7),
        ("CUSTOMER_ID_AVG_AMOUNT_7DAY_WINDOW", 7),
        ("TERMINAL_ID_NB_TX_1DAY_WINDOW", 8),
        ("TERMINAL_ID_RISK_1DAY_WINDOW", 8),
        ("TERMINAL_ID_NB_TX_7DAY_WINDOW", 14),
        ("TERMINAL_ID_RISK_7DAY_WINDOW", 14),
    ],
)
def test_features_equal_the_published_ones(
    published: pd.DataFrame, ours: pd.DataFrame, ours_with_ties_swapped: pd.DataFrame, name: str, history_days: int
) -> None:
    # The 30-day windows are left out: they need more history than the 21 days published.
    has_history = published["TX_DATETIME"] >= PUBLISHED_START + history_days * DAY
    theirs = published[name].to_numpy(np.float64)
    # 1e-6 is some ten units in the last place of a float32; below 1e-9 the published averages show what is left of
    # running sums that once were larger (1.7e-13 as the average of a single 0.00).
    agrees = np.isclose(ours[name], theirs, rtol=1e-6, atol=1e-9)
    # Where a customer pays twice in one second, either row may be the earlier one: the published order is arbitrary.
    is_tied = published.duplicated(["TX_DATETIME", "CUSTOMER_ID"], keep=False)
    agrees |= is_tied & np.isclose(ours_with_ties_swapped[name], theirs, rtol=1e-6, atol=1e-9)
    n_differ = (~agrees & has_history).sum()
    assert n_differ == 0, f"{n_differ} of {has_history.sum()} rows differ"
