"""The fourteen features derived from a transaction's history: when it fell, what its customer and terminal did before.

Definitions after Le Borgne et al., *Reproducible Machine Learning for Credit Card Fraud Detection* (2022), chapter 3,
"Baseline feature transformation". With the raw TX_AMOUNT they are the fifteen features of the fraud models.

Every sum is over integers (rows, frauds, cents), so a feature is exact up to its last rounding to float32, however
long the table is.
"""

from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

Ints = npt.NDArray[np.int64]
Features = npt.NDArray[np.float32]

REQUIRED: Final = ("TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")
WINDOW_DAYS: Final = (1, 7, 30)
LAST_NIGHT_HOUR: Final = 6  # 00:00:00 to 06:59:59 is night, as in the published data
FIRST_WEEKEND_DAY: Final = 5  # Saturday, where Monday is 0
MOST_EXACT_TOTAL: Final = 2**53 / 100  # in whole cents, sums up to here are exact in float64

DERIVED: Final = (
    "TX_DURING_WEEKEND",
    "TX_DURING_NIGHT",
    *(f"CUSTOMER_ID_{what}_{n}DAY_WINDOW" for n in WINDOW_DAYS for what in ("NB_TX", "AVG_AMOUNT")),
    *(f"TERMINAL_ID_{what}_{n}DAY_WINDOW" for n in WINDOW_DAYS for what in ("NB_TX", "RISK")),
)


def add_features(transactions: pd.DataFrame, *, delay_days: int = 7) -> pd.DataFrame:
    """A copy of the transactions with the fourteen DERIVED columns, float32, in that order.

    For a transaction at time t, and n of 1, 7 and 30 days:
        TX_DURING_WEEKEND                    1 on Saturday and Sunday, else 0
        TX_DURING_NIGHT                      1 from 00:00:00 to 06:59:59, else 0
        CUSTOMER_ID_NB_TX_nDAY_WINDOW        transactions of the customer in (t - n, t], this one included; 1 or more
        CUSTOMER_ID_AVG_AMOUNT_nDAY_WINDOW   their mean TX_AMOUNT, in currency units
        TERMINAL_ID_NB_TX_nDAY_WINDOW        transactions at the terminal in (t - delay - n, t - delay]
        TERMINAL_ID_RISK_nDAY_WINDOW         the share of them that is fraud, 0 to 1; 0 when there are none

    A row sees no later row: customer windows end at the row itself, and of rows with the same time the one further
    down counts as later. Terminal windows end `delay_days` earlier, because a label is known only that long after its
    transaction. Windows that begin before the table does hold what the table has.

    transactions: any frame with the REQUIRED columns, in any order; its rows, their order and its index are kept.
    TX_DATETIME is any datetime64, TX_AMOUNT is rounded to cents, TX_FRAUD is 0 or 1. Derived columns already there
    are replaced. Raises ValueError for a missing column or value, another type of time, amounts too large to sum
    exactly, a label that is neither 0 nor 1, and a delay of less than one day (a label is never known at the time of
    its own transaction).
    """
    if delay_days < 1:
        raise ValueError(f"delay_days must be at least 1, got {delay_days}")
    _require_usable(transactions)
    clock = pd.DatetimeIndex(transactions["TX_DATETIME"])
    day = int(np.timedelta64(1, "D") // np.timedelta64(1, clock.unit))
    time = np.asarray(clock.asi8, dtype=np.int64)
    order = np.argsort(time, kind="stable")
    cents = np.rint(transactions["TX_AMOUNT"].to_numpy(np.float64) * 100).astype(np.int64)
    is_fraud = transactions["TX_FRAUD"].to_numpy(np.int64)

    features: dict[str, Features] = {
        "TX_DURING_WEEKEND": (clock.day_of_week >= FIRST_WEEKEND_DAY).astype(np.float32),
        "TX_DURING_NIGHT": (clock.hour <= LAST_NIGHT_HOUR).astype(np.float32),
    }
    customer = _Histories(transactions["CUSTOMER_ID"], time, order)
    up_to_itself = customer.n_up_to_itself()
    spent = customer.running(cents)
    for n in WINDOW_DAYS:
        before = customer.n_up_to(n * day)
        count = up_to_itself - before
        mean = (spent[up_to_itself] - spent[before]) / (100 * count)
        features[f"CUSTOMER_ID_NB_TX_{n}DAY_WINDOW"] = customer.in_row_order(count)
        features[f"CUSTOMER_ID_AVG_AMOUNT_{n}DAY_WINDOW"] = customer.in_row_order(mean)

    terminal = _Histories(transactions["TERMINAL_ID"], time, order)
    labelled = terminal.n_up_to(delay_days * day)
    frauds = terminal.running(is_fraud)
    for n in WINDOW_DAYS:
        before = terminal.n_up_to((delay_days + n) * day)
        count = labelled - before
        risk = (frauds[labelled] - frauds[before]) / np.maximum(count, 1)
        features[f"TERMINAL_ID_NB_TX_{n}DAY_WINDOW"] = terminal.in_row_order(count)
        features[f"TERMINAL_ID_RISK_{n}DAY_WINDOW"] = terminal.in_row_order(risk)
    return transactions.assign(**{name: features[name] for name in DERIVED})


class _Histories:
    """The histories of all entities laid end to end, each in time order; arrays here are in that *history order*.

    A count of rows is a position in that one long line, so the rows of a window are the difference of two counts and
    a sum over them is the difference of two running sums.
    """

    def __init__(self, entity: "pd.Series[int]", time: Ints, order: Ints) -> None:
        code = pd.factorize(entity)[0].astype(np.int64)[order]
        # Positions in time order, not times, make the keys: distinct, and too small to overflow whatever the unit.
        self._position = np.argsort(code, kind="stable")
        self._entity_key = code[self._position] * len(time)
        self._key = self._entity_key + self._position
        self._row = order[self._position]
        self._times = time[order]

    def n_up_to_itself(self) -> Ints:
        """Rows in line up to each row, itself included."""
        return np.arange(1, len(self._key) + 1)

    def n_up_to(self, ago: int) -> Ints:
        """Rows in line up to the last one of the same entity that is at least `ago` older, in the unit of the times."""
        position = np.searchsorted(self._times, self._times - ago, side="right")[self._position]
        return np.searchsorted(self._key, self._entity_key + position)

    def running(self, values: Ints) -> Ints:
        """Sum of the values, given in row order, over the first 0, 1, 2, ... rows in line; (n_rows + 1,)."""
        return np.concatenate([[0], np.cumsum(values[self._row])])

    def in_row_order(self, values: npt.NDArray[np.int64 | np.float64]) -> Features:
        """The values as float32, back in the order of the table's rows."""
        result = np.empty(len(values), dtype=np.float32)
        result[self._row] = values
        return result


def _require_usable(transactions: pd.DataFrame) -> None:
    absent = [name for name in REQUIRED if name not in transactions.columns]
    if absent:
        raise ValueError(f"transactions lack the columns {', '.join(absent)}")
    times, labels = transactions["TX_DATETIME"], transactions["TX_FRAUD"]
    if times.dtype.kind != "M":
        raise ValueError(f"TX_DATETIME must hold datetimes, got {times.dtype}")
    incomplete = [name for name in REQUIRED if transactions[name].isna().any()]
    if incomplete:
        raise ValueError(f"values are missing in the columns {', '.join(incomplete)}")
    with np.errstate(over="ignore"):
        total = np.abs(transactions["TX_AMOUNT"].to_numpy(np.float64)).sum()
    if not total < MOST_EXACT_TOTAL:  # infinite amounts too
        raise ValueError(
            f"TX_AMOUNT must be finite and sum to less than {MOST_EXACT_TOTAL:.0f} in magnitude, got {total}"
        )
    if not labels.isin([0, 1]).all():
        raise ValueError("TX_FRAUD must be 0 or 1")
