"""Card transactions: the contract of the fraud models, and their datasets."""

from __future__ import annotations

import numpy as np
import pandas as pd

from causeway.contract import Array, Contract, Feature, Output
from causeway.training import Dataset
from models.simulator import Simulation, simulate
from models.windows import add_features

NAME = "fraud"
LABEL = "TX_FRAUD"
TIME = "TX_DATETIME"
ENTITY = "CUSTOMER_ID"

MAX_AMOUNT = 1_000_000.0
MAX_COUNT = 1_000_000.0
EVALUATED_DAYS = 21
"""Simulated days that training sees; those before only fill the windows."""


def _windows(entity: str, second: str, maximum: float, who: str, what: str) -> tuple[Feature, ...]:
    features = []
    for days in (1, 7, 30):
        count, value = f"{entity}_NB_TX_{days}DAY_WINDOW", f"{entity}_{second}_{days}DAY_WINDOW"
        features += [
            Feature(count, "integer", 0, MAX_COUNT, f"Transactions {who} in a window of {days} days"),
            Feature(value, "float", 0, maximum, f"{what} over the same {days} days"),
        ]
    return tuple(features)


CONTRACT = Contract(
    features=(
        Feature("TX_AMOUNT", "float", 0, MAX_AMOUNT, "Amount of the transaction"),
        Feature("TX_DURING_WEEKEND", "integer", 0, 1, "1 on Saturday and Sunday"),
        Feature("TX_DURING_NIGHT", "integer", 0, 1, "1 from 0:00 to 6:59"),
        *_windows("CUSTOMER_ID", "AVG_AMOUNT", MAX_AMOUNT, "of the customer", "Their mean amount"),
        *_windows("TERMINAL_ID", "RISK", 1, "at the terminal, ending 7 days ago", "Their share of fraud"),
    ),
    output=Output("fraud_probability", description="Probability that the transaction is fraudulent."),
)


def default_data(seed: int) -> Dataset:
    """Three weeks of simulated transactions, after six that only fill the windows."""
    simulation = Simulation()
    transactions = add_features(simulate(simulation, seed))
    first_day = transactions[TIME].min().normalize() + pd.Timedelta(days=simulation.n_days - EVALUATED_DAYS)
    recent = transactions[transactions[TIME] >= first_day]
    return from_table(recent, LABEL, f"{EVALUATED_DAYS} days of simulated transactions, seed {seed}")


def from_table(table: pd.DataFrame, label: str, source: str, time: str = TIME, entity: str = ENTITY) -> Dataset:
    """The dataset of a table with the contract's columns; those of time and customer are used where they are there."""
    data = Dataset.from_table(CONTRACT, table, label, source=source, time=time, entity=entity)
    return data.with_slices(slices(data.X))


def slices(X: Array) -> dict[str, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Parts of the rows that are evaluated on their own: by amount, night and weekend."""
    amount, weekend, night = X[:, 0], X[:, 1], X[:, 2]
    return {
        "amount up to 50": amount <= 50,
        "amount 50 to 220": (amount > 50) & (amount <= 220),
        "amount over 220": amount > 220,
        "day": night == 0,
        "night": night == 1,
        "weekday": weekend == 0,
        "weekend": weekend == 1,
    }
