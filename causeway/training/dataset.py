"""Labelled rows that a contract accepts, and how they are split into training and test rows."""

from __future__ import annotations

import dataclasses
import hashlib
import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from causeway.contract import Array, Contract
from causeway.errors import BadRequest, TableRefused

MIN_ROWS = 100
MIN_PER_LABEL = 10
"""Fewer rows, or fewer of either label, in the training or the test part give metrics that mean nothing."""
TEST_SHARE = 0.25
PARTS = 4
"""A table must have this many times as much, for its smaller part to have enough: 1 / `TEST_SHARE`."""

_ISO_8601 = "write times in ISO 8601, as in 2024-01-31 09:30:00"


@dataclass(frozen=True)
class Trained:
    """A fitted classifier."""

    model: Any
    """What scikit-learn has: `predict_proba` gives (n_rows, 2) probabilities of labels 0 and 1."""

    def predict(self, X: Array) -> NDArray[np.float64]:
        """Probability of label 1, (n_rows,)."""
        return np.asarray(self.model.predict_proba(X), dtype=np.float64)[:, 1]


@dataclass(frozen=True)
class Dataset:
    """n rows: X (n, n_features) float32 in contract order, and y (n,) int8 of 0 and 1."""

    contract: Contract
    X: Array
    y: NDArray[np.int8]
    source: str
    """Where the rows come from, for the model card."""
    time: NDArray[np.datetime64] | None = None
    """(n,) when each row happened; makes the split one by time."""
    entity: NDArray[np.int64] | None = None
    """(n,) number of what a row is about (the card's holder, for instance); makes card precision possible."""
    slices: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    """Named parts of the rows that are evaluated on their own, each an (n,) mask."""
    teacher_scores: NDArray[np.float64] | None = None
    """(n,) probabilities that another model, a teacher, gives for the rows; for a family that learns from them."""

    @classmethod
    def from_table(
        cls,
        contract: Contract,
        table: pd.DataFrame,
        label: str,
        *,
        source: str,
        time: str | None = None,
        entity: str | None = None,
    ) -> Dataset:
        """The rows of `table`: contract features by name, `label` of 0 and 1, and the named columns where they exist.

        Raises `TableRefused`, in words that say what to do: missing columns, values outside the contract, labels
        other than 0 and 1, a constant label, too few rows.
        """
        if label in (*contract.names, time, entity):
            raise TableRefused(f"{label} is an input of the model; name the column with the outcome by --label")
        twice = sorted({str(name) for name in table.columns[table.columns.duplicated()]})
        if twice:
            raise TableRefused(f"{source} has more than one column {', '.join(twice)}; keep one of each")
        missing = [name for name in (*contract.names, label) if name not in table.columns]
        if missing:
            raise TableRefused(
                f"{source} lacks {_count(len(missing), 'column')}: {', '.join(missing)}; add what is missing under "
                "the contract's names, and name the label with --label",
                missing=missing,
            )
        y = _labels(table[label], label)
        _enough(y, "The table", PARTS)
        return cls(
            contract,
            _features(contract, table),
            y,
            source,
            time=_times(table[time], time) if time is not None and time in table.columns else None,
            entity=_entities(table[entity], entity) if entity is not None and entity in table.columns else None,
        )

    def with_slices(self, slices: Mapping[str, NDArray[np.bool_]]) -> Dataset:
        """The same rows with these slices."""
        return dataclasses.replace(self, slices=slices)

    def __post_init__(self) -> None:
        n = len(self.y)
        parts = (self.X, self.time, self.entity, self.teacher_scores, *self.slices.values())
        if any(len(part) != n for part in parts if part is not None):
            raise TableRefused(f"{self.source}: X, y and all that is known of rows must have the same number of rows")
        if self.X.dtype != np.float32 or self.X.shape[1:] != (self.contract.width,):
            raise TableRefused(f"{self.source}: X must be float32 with {self.contract.width} columns")
        if not np.isin(self.y, (0, 1)).all():
            raise TableRefused(f"{self.source}: labels must be 0 or 1")
        if self.contract.output.width != 1:
            raise TableRefused(f"{self.source}: models are trained to give one probability a row, output width 1")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> Dataset:
        """The rows that a mask or an index array selects."""
        return dataclasses.replace(
            self,
            X=self.X[rows],
            y=self.y[rows],
            time=None if self.time is None else self.time[rows],
            entity=None if self.entity is None else self.entity[rows],
            slices={name: mask[rows] for name, mask in self.slices.items()},
            teacher_scores=None if self.teacher_scores is None else self.teacher_scores[rows],
        )

    def fingerprint(self) -> str:
        """SHA-256 of features, labels, times and entities, as hexadecimal digits."""
        digest = hashlib.sha256("\0".join(self.contract.names).encode())
        digest.update(self.X.tobytes())
        digest.update(self.y.tobytes())
        if self.time is not None:
            digest.update(self.time.astype("datetime64[s]").tobytes())
        if self.entity is not None:
            digest.update(self.entity.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Split:
    """Training rows, test rows, and in one sentence how they were told apart."""

    train: Dataset
    test: Dataset
    how: str


def split(data: Dataset, *, delay_days: int = 7, test_days: int = 7, seed: int = 0) -> Split:
    """By time where the data has it, otherwise stratified.

    By time: the last `test_days` are the test, the `delay_days` before them are left out because their labels would
    not be known yet, everything before is for training. Test rows of an entity that was already known to be positive
    (a positive row more than `delay_days` before) are left out, day by day, as in Le Borgne et al., Reproducible
    Machine Learning for Credit Card Fraud Detection (2022), chapter 3. Stratified: a random `TEST_SHARE` of each label.
    Raises `TableRefused` if a part has too few rows or labels.
    """
    if data.time is None:
        _enough(data.y, "The table", PARTS)
        train, test = train_test_split(np.arange(len(data)), test_size=TEST_SHARE, stratify=data.y, random_state=seed)
        how = f"stratified, {TEST_SHARE:.0%} of the rows for testing, drawn with seed {seed}"
        result = Split(data.take(np.sort(train)), data.take(np.sort(test)), how)
    else:
        result = _split_by_time(data, data.time, delay_days, test_days)
    _enough(result.train.y, "The training part")
    _enough(result.test.y, "The test part")
    return result


def _split_by_time(data: Dataset, time: NDArray[np.datetime64], delay_days: int, test_days: int) -> Split:
    day = time.astype("datetime64[D]").astype(np.int64)
    first_test = int(day.max()) - test_days + 1
    n_train_days = first_test - delay_days - int(day.min())
    if n_train_days < 1:
        raise TableRefused(
            f"The table spans {int(day.max() - day.min()) + 1} days, too few for training days, {delay_days} days of "
            f"delay and {test_days} test days; bring more days, or lower --delay-days and --test-days"
        )
    test = day >= first_test
    if data.entity is not None:
        known = pd.Series(np.where(data.y == 1, day, np.iinfo(np.int64).max)).groupby(data.entity).transform("min")
        test &= ~(known.to_numpy() < day - delay_days)
    how = f"by time: {n_train_days} days for training, {delay_days} days of delay, {test_days} days for testing"
    if data.entity is not None:
        how += ", without entities already known to be positive"
    return Split(data.take(day < first_test - delay_days), data.take(test), how)


def folds(data: Dataset, n_folds: int, seed: int) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Rows to fit on and rows held out, fold by fold, with as many positives in each as can be.

    All rows of an entity are in one fold: its positives come in clusters, and a model that has seen one of them knows
    the others.
    """
    kind = StratifiedKFold if data.entity is None else StratifiedGroupKFold
    parts: Iterator[tuple[NDArray[np.intp], NDArray[np.intp]]] = kind(n_folds, shuffle=True, random_state=seed).split(
        data.X, data.y, data.entity
    )
    return parts


def _features(contract: Contract, table: pd.DataFrame) -> Array:
    columns = []
    for name in contract.names:
        column = _numbers(table[name])
        bad = np.isnan(column)
        if bad.any():
            found = _found(table[name], bad)
            raise TableRefused(f"Column {name}: {found} no finite number; fill these rows or drop them")
        columns.append(column)
    try:
        return contract.from_array(np.column_stack(columns))
    except BadRequest as exc:
        got = _shown(table[exc.name].iloc[exc.row])
        raise TableRefused(f"{exc.message}, not {got}; correct the table, or the contract in models/") from exc


def _numbers(column: pd.Series[Any]) -> NDArray[np.float64]:
    """The column as floats; NaN for what is missing, no number, or beyond any float."""
    try:
        return pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
    except (OverflowError, TypeError, ValueError):
        return np.full(len(column), np.nan)


def _labels(column: pd.Series[Any], label: str) -> NDArray[np.int8]:
    values = _numbers(column)
    bad = ~np.isin(values, (0, 1))
    if bad.any():
        raise TableRefused(f"Label {label}: {_found(column, bad)} neither 0 nor 1; map them to these")
    return values.astype(np.int8)


def _times(column: pd.Series[Any], name: str) -> NDArray[np.datetime64]:
    """Wall-clock times; with several zones in one column, all of them in UTC."""
    if pd.api.types.is_numeric_dtype(column):
        raise TableRefused(f"Column {name} holds numbers, not times; {_ISO_8601}")
    if isinstance(column.dtype, pd.DatetimeTZDtype):
        column = column.dt.tz_localize(None)
    times = pd.to_datetime(column, errors="coerce", utc=True, format="ISO8601").dt.tz_localize(None)
    bad = times.isna().to_numpy()
    if bad.any():
        raise TableRefused(f"Column {name}: {_found(column, bad)} no time; {_ISO_8601}")
    return times.to_numpy(dtype="datetime64[s]")


def _entities(column: pd.Series[Any], name: str) -> NDArray[np.int64]:
    """The entities as whole numbers, in the order in which they first come."""
    bad = column.isna().to_numpy()
    if bad.any():
        raise TableRefused(f"Column {name}: {_found(column, bad)} missing; fill them, or drop the column")
    try:
        return pd.factorize(column)[0].astype(np.int64)
    except TypeError as exc:
        raise TableRefused(f"Column {name} must hold numbers or texts that tell entities apart") from exc


def _enough(y: NDArray[np.int8], what: str, parts: int = 1) -> None:
    """Refuses labels too few to be `parts` parts that are enough each."""
    of_label = [int((y == label).sum()) for label in (0, 1)]
    if len(y) < MIN_ROWS * parts:
        raise TableRefused(f"{what} has {_count(len(y), 'row')}; bring at least {MIN_ROWS * parts}")
    if 0 in of_label:
        raise TableRefused(f"{what} has the same label in all {len(y)} rows; bring rows of both labels")
    if min(of_label) < MIN_PER_LABEL * parts:
        few = _count(min(of_label), "row")
        raise TableRefused(f"{what} has only {few} of one label; bring at least {MIN_PER_LABEL * parts}")


def _found(column: pd.Series[Any], bad: NDArray[np.bool_]) -> str:
    """How many values are `bad` and the first of them: '3 values, the first in row 7 ('much'), are'."""
    row = int(np.argmax(bad))
    value = _shown(column.iloc[row])
    if bad.sum() == 1:
        return f"the value in row {row} ({value}) is"
    return f"{int(bad.sum())} values, the first in row {row} ({value}), are"


def _shown(value: object) -> str:
    """A value for a message: short, and a text in quotes."""
    return reprlib.repr(value) if isinstance(value, str) else str(value)[:50]


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"
