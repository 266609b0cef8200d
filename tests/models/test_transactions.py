"""The transactions' dataset: its contract, its own data and its slices."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import models
from causeway.errors import TableRefused
from models import transactions
from models.windows import DERIVED


def test_the_contract_names_the_published_features_in_order() -> None:
    windows = [
        f"{entity}_{what}_{days}DAY_WINDOW"
        for entity, second in (("CUSTOMER_ID", "AVG_AMOUNT"), ("TERMINAL_ID", "RISK"))
        for days in (1, 7, 30)
        for what in ("NB_TX", second)
    ]
    assert transactions.CONTRACT.names == ("TX_AMOUNT", "TX_DURING_WEEKEND", "TX_DURING_NIGHT", *windows)
    assert transactions.CONTRACT.names == ("TX_AMOUNT", *DERIVED)


def test_its_own_data_are_three_weeks_of_simulated_transactions_with_full_windows() -> None:
    data = transactions.default_data(0)
    assert data.time is not None
    assert data.entity is not None
    days = np.unique(data.time.astype("datetime64[D]"))
    assert len(days) == transactions.EVALUATED_DAYS
    assert 0.004 < data.y.mean() < 0.02
    np.testing.assert_array_equal(data.X, transactions.default_data(0).X)


def test_slices_cover_every_row_once_per_kind() -> None:
    data = transactions.default_data(0)
    masks = {name: mask.astype(int) for name, mask in data.slices.items()}
    for kind in ("amount", "day", "night", "week"):
        assert any(kind in name for name in masks)
    assert sum(masks.values()).tolist() == [3] * len(data)  # type: ignore[union-attr]


def test_the_published_table_is_taken_as_it_is(published) -> None:  # type: ignore[no-untyped-def]
    table = pd.read_parquet(published)
    data = transactions.from_table(table, "TX_FRAUD", "published")
    assert len(data) == len(table)
    assert data.y.sum() == table["TX_FRAUD"].sum()


def test_a_table_without_window_features_is_refused_by_their_names() -> None:
    with pytest.raises(TableRefused, match=r"lacks 14 columns: TX_DURING_WEEKEND"):
        transactions.from_table(pd.DataFrame({"TX_AMOUNT": [1.0], "TX_FRAUD": [0]}), "TX_FRAUD", "t.csv")


def test_a_table_may_name_its_columns_of_time_and_customer(published: Path) -> None:
    table = pd.read_parquet(published)
    renamed = table.rename(columns={"TX_DATETIME": "time", "CUSTOMER_ID": "routing_key"})
    family = models.family("gradient_boosting")
    own = models.dataset(family, table, "TX_FRAUD", "table")
    named = models.dataset(family, renamed, "TX_FRAUD", "table", time="time", entity="routing_key")
    assert named.fingerprint() == own.fingerprint()
    assert own.time is not None
    np.testing.assert_array_equal(named.time, own.time)
    np.testing.assert_array_equal(named.entity, own.entity)
    with pytest.raises(TableRefused, match=r"^table lacks the column when$"):
        models.dataset(family, table, "TX_FRAUD", "table", time="when")
