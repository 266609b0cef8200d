"""The keeper's eye on drift: a window of each version fills up, is compared with the reference, and begins anew."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection, insert, update

from causeway import logs
from causeway.drift.comparison import MAX_REFUSED_SHARE, ColumnComparison, Comparison, compare
from causeway.drift.history import Stretch
from causeway.drift.reference import Reference
from causeway.monitoring.batch import Prediction, RefusedValue
from causeway.monitoring.database import drift_windows
from causeway.monitoring.model_metrics import ModelMetrics


class Key(NamedTuple):
    """Whose window it is."""

    source: str
    """The server that saw the rows."""
    tag: str


@dataclass(frozen=True)
class Open:
    """A window that is filling up."""

    stretch: Stretch
    row: int | None = None
    """Its id in the table; None before it is there."""


class DriftWatch:
    """Of the servers whose predictions the keeper writes.

    An open window is stored with every transaction, together with the predictions that it counts: a keeper that is
    killed loses nothing, and the next one begins another.
    """

    def __init__(
        self, reference: Callable[[str], Reference | None], metrics: ModelMetrics, *, n_rows: int, seconds: float
    ) -> None:
        """reference: of a version, by its tag; None where there is none. n_rows, seconds: of a window, at least."""
        self._reference = reference
        self._metrics = metrics
        self._n_rows = n_rows
        self._seconds = seconds
        self._open: dict[Key, Open] = {}
        self._drifted: dict[str, tuple[str, ...]] = {}

    def counted(
        self, source: str, predictions: Sequence[Prediction], refused: Mapping[RefusedValue, int], now: float
    ) -> dict[Key, Open]:
        """The open windows with these predictions in them; `accept` makes it so."""
        by_tag: defaultdict[str, list[Prediction]] = defaultdict(list)
        for prediction in predictions:
            by_tag[prediction.tag].append(prediction)
        grown = {}
        for tag in by_tag.keys() | {tag for tag, _, _ in refused}:
            reference = self._reference(tag)
            if reference is None or not _fits(reference, by_tag[tag]):
                continue
            key = Key(source, tag)
            stretch = _stretch(reference, by_tag[tag], _by_reason(refused, tag, reference), now)
            before = self._open.get(key)
            grown[key] = Open(stretch) if before is None else Open(before.stretch + stretch, before.row)
        return grown

    def store(self, connection: Connection, windows: Mapping[Key, Open]) -> dict[Key, Open]:
        """Puts them into the database; returns them with their ids."""
        return {key: Open(each.stretch, _store(connection, key, each)) for key, each in windows.items()}

    def accept(self, windows: Mapping[Key, Open]) -> None:
        """Takes what was stored for what is open, and closes what is complete."""
        self._open.update(windows)
        for key, each in windows.items():
            if each.stretch.is_complete(self._n_rows, self._seconds):
                del self._open[key]
                self._close(key.tag, each.stretch)

    def _close(self, tag: str, stretch: Stretch) -> None:
        reference = self._reference(tag)
        if reference is not None:
            comparison = compare(reference, stretch.window)
            _show(self._metrics, tag, comparison, stretch.closed)
            self._tell(tag, comparison)

    def _tell(self, tag: str, comparison: Comparison) -> None:
        """Logs which alarms begin and which end."""
        before, after = self._drifted.get(tag, ()), comparison.drifted
        self._drifted[tag] = after
        begun = [column for column in comparison.columns if column.is_drifted and column.name not in before]
        ended = [name for name in before if name not in after]
        if begun:
            worst = max(begun, key=lambda column: _evidence(column).ratio)
            found = _evidence(worst)
            logs.get().warning(
                "drift_alarm",
                model_version=tag,
                columns=[column.name for column in begun],
                column=worst.name,
                statistic=found.statistic,
                value=found.value,
                threshold=found.threshold,
                rows=comparison.rows,
            )
        if ended:
            logs.get().info("drift_alarm_over", model_version=tag, columns=ended, rows=comparison.rows)


class Evidence(NamedTuple):
    """What makes a column alarm."""

    statistic: str
    value: float
    threshold: float

    @property
    def ratio(self) -> float:
        """How many times the threshold it is."""
        return self.value / self.threshold


def _evidence(column: ColumnComparison) -> Evidence:
    """The strongest."""
    shares = {"missing": column.missing, "out_of_range": column.out_of_range}
    found = []
    for alarm in column.alarms:
        if alarm in shares:
            found.append(Evidence(alarm, shares[alarm], MAX_REFUSED_SHARE))
        else:
            statistic = column.statistics[alarm]
            found.append(Evidence(alarm, statistic.value or 0.0, statistic.threshold or 0.0))
    return max(found, key=lambda evidence: evidence.ratio)


def _fits(reference: Reference, predictions: Sequence[Prediction]) -> bool:
    """Whether the reference has a column for each feature and the output; those of early versions lack the output."""
    return not predictions or predictions[0].X.shape[1] == len(reference.columns) - 1


def _stretch(
    reference: Reference, predictions: Sequence[Prediction], refused: Mapping[str, Mapping[str, int]], now: float
) -> Stretch:
    window = reference.refused(refused["missing"], refused["out_of_range"])
    if not predictions:
        return Stretch(now, now, window)
    X = np.concatenate([prediction.X for prediction in predictions])
    scores = np.concatenate([prediction.predictions for prediction in predictions])[:, 0]
    times = [prediction.time for prediction in predictions]
    return Stretch(min(times), max(times), reference.count(X, scores) + window)


def _by_reason(refused: Mapping[RefusedValue, int], tag: str, reference: Reference) -> dict[str, Counter[str]]:
    """By reason and column; a value that is no number is as good as missing."""
    counts: dict[str, Counter[str]] = {"missing": Counter(), "out_of_range": Counter()}
    for (of, column, reason), n in refused.items():
        if of == tag and column in reference.names:
            counts["out_of_range" if reason == "out_of_range" else "missing"][column] += n
    return counts


def _store(connection: Connection, key: Key, each: Open) -> int:
    stretch = each.stretch
    values = {
        "opened": stretch.opened,
        "closed": stretch.closed,
        "n_rows": stretch.window.rows,
        "counts": stretch.window.to_json().decode(),
    }
    if each.row is not None:
        connection.execute(update(drift_windows).where(drift_windows.c.id == each.row).values(values))
        return each.row
    inserted = connection.execute(insert(drift_windows).values(model_version=key.tag, source=key.source, **values))
    assert inserted.inserted_primary_key is not None  # noqa: S101
    return int(inserted.inserted_primary_key[0])


def _show(metrics: ModelMetrics, tag: str, comparison: Comparison, closed: float) -> None:
    statistics = {
        (column.name, name): statistic for column in comparison.columns for name, statistic in column.statistics.items()
    }
    metrics.drift(
        tag,
        {labels: each.value for labels, each in statistics.items() if each.value is not None},
        {labels: each.threshold for labels, each in statistics.items() if each.threshold is not None},
        {column.name: column.is_drifted for column in comparison.columns},
        n_rows=comparison.rows,
        closed=closed,
    )
