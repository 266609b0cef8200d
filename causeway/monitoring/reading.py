"""The prediction log as a table: a row for each row that was scored, in the order in which they were written.

    request_id, row             the row's number in its request, from 0
    time                        when the request began, UTC
    model_version, variant, routing_key, trace_id
    the features                by their names
    the scores                  by the output's name
    label                       what became of the row; None as long as nobody said
    decode_ms, queue_ms, compute_ms, latency_ms

Versions may differ in their features; a row has None in those of others. Of a version whose contract is not known the
features are feature_0, feature_1 and so on, and the score is prediction. Where a feature has the name of one of the
other columns, that column's name ends in an underscore.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import chain
from typing import Any

import msgspec
from sqlalchemy import ColumnElement, Connection, Row, Select, func, select

from causeway.contract import Contract
from causeway.monitoring.database import labels, predictions

ROWS_AT_ONCE = 20_000
"""Rows in one part, at most, unless a single request has more."""

REQUESTS_AT_ONCE = 5_000
"""Requests whose numbers of rows are looked up at a time."""

BEFORE = ("request_id", "row", "time", "model_version", "variant", "routing_key", "trace_id")
AFTER = ("label", "decode_ms", "queue_ms", "compute_ms", "latency_ms")

Part = Mapping[str, Sequence[Any]]
"""Some rows: all columns by name, equally long."""

_decode = msgspec.json.Decoder(list[Any]).decode


@dataclass(frozen=True)
class Selection:
    """Which rows of the log."""

    since: float
    """Of requests that began then or later, in seconds since 1970,"""
    until: float
    """and before this."""
    version: str | None = None
    """Of this model version alone."""
    is_labelled: bool = False
    """Only those with labels; of requests with one id, as a client's retries are, the last."""
    limit: int | None = None
    """The newest so many."""
    request_id: str | None = None
    """Of requests with this id alone."""


@dataclass(frozen=True)
class _Names:
    """What a version calls its columns."""

    features: Sequence[str]
    scores: Sequence[str]


class Reading:
    """The rows that are in the log when this is made; `contract_of` gives a version's contract, None where unknown."""

    def __init__(
        self, connection: Connection, selection: Selection, contract_of: Callable[[str], Contract | None]
    ) -> None:
        self._connection = connection
        self._selection = selection
        self._first, self._last, self._n_skipped = self._span()
        self._names = {tag: self._names_of(tag, contract_of(tag)) for tag in self._versions()}
        self.features = _unique(names.features for names in self._names.values())
        """Columns that hold features: numbers."""
        self.scores = _unique(names.scores for names in self._names.values())
        """Columns that hold scores: numbers."""
        taken = {*self.features, *self.scores}
        self.own = {name: f"{name}_" if name in taken else name for name in (*BEFORE, *AFTER)}
        """What the log's own columns are called."""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns, in their order."""
        before, after = ([self.own[name] for name in names] for names in (BEFORE, AFTER))
        return _unique((before, self.features, self.scores, after))

    def __iter__(self) -> Iterator[Part]:
        """The rows in parts that fit into memory."""
        n_skipped = self._n_skipped
        for first, last in self._ranges():
            rows = [row for request in self._requests(first, last) for row in self._rows(request)][n_skipped:]
            n_skipped = 0
            yield {name: [row.get(name) for row in rows] for name in self.columns}

    def _chosen(self, *columns: ColumnElement[Any]) -> Select[Any]:
        """These columns of the requests that the selection means."""
        chosen, logged = self._selection, predictions.c
        asked = select(*columns).select_from(predictions)
        asked = asked.join(labels, labels.c.request_id == logged.request_id, isouter=not chosen.is_labelled)
        asked = asked.where(logged.time >= chosen.since, logged.time < chosen.until)
        if chosen.version is not None:
            asked = asked.where(logged.model_version == chosen.version)
        if chosen.request_id is not None:
            asked = asked.where(logged.request_id == chosen.request_id)
        if chosen.is_labelled:
            later = predictions.alias("later")
            asked = asked.where(
                ~select(later.c.id).where(later.c.request_id == logged.request_id, later.c.id > logged.id).exists(),
                func.length(labels.c.labels) - func.length(func.replace(labels.c.labels, ",", "")) == logged.n_rows - 1,
            )
        return asked

    def _span(self) -> tuple[int, int, int]:
        """The first and the last request's number, and how many rows of the first are beyond the limit."""
        limit, found = self._selection.limit, self._chosen(func.min(predictions.c.id), func.max(predictions.c.id))
        first, last = self._connection.execute(found).one()
        if first is None:
            return 0, -1, 0
        if limit is None:
            return first, last, 0
        newest = self._chosen(predictions.c.id, predictions.c.n_rows).order_by(predictions.c.id.desc()).limit(limit)
        n_rows = 0
        for number, n in self._connection.execute(newest):
            first, n_rows = number, n_rows + n
            if n_rows >= limit:
                break
        return first, last, max(0, n_rows - limit)

    def _versions(self) -> Sequence[str]:
        """The tags, in the order of the alphabet."""
        asked = self._chosen(predictions.c.model_version).where(predictions.c.id.between(self._first, self._last))
        return sorted(self._connection.execute(asked.distinct()).scalars())

    def _names_of(self, tag: str, contract: Contract | None) -> _Names:
        if contract is not None:
            return _Names(contract.names, _numbered(contract.output.name, contract.output.width))
        asked = select(predictions.c.features, predictions.c.predictions).where(predictions.c.model_version == tag)
        request = self._connection.execute(asked.limit(1)).one()
        features, scores = (len(_decode(values)[0]) for values in request)
        return _Names([f"feature_{i}" for i in range(features)], _numbered("prediction", scores))

    def _ranges(self) -> Iterator[tuple[int, int]]:
        """First and last numbers of requests that have `ROWS_AT_ONCE` rows together."""
        begun, last, n_rows = self._first, self._first - 1, 0
        while True:
            sizes = self._chosen(predictions.c.id, predictions.c.n_rows).order_by(predictions.c.id)
            sizes = sizes.where(predictions.c.id > last, predictions.c.id <= self._last).limit(REQUESTS_AT_ONCE)
            found = self._connection.execute(sizes).all()
            for number, n in found:
                if n_rows and n_rows + n > ROWS_AT_ONCE:
                    yield begun, last
                    begun, n_rows = number, 0
                last, n_rows = number, n_rows + n
            if len(found) < REQUESTS_AT_ONCE:
                break
        if n_rows:
            yield begun, last

    def _requests(self, first: int, last: int) -> Iterable[Row[Any]]:
        asked = self._chosen(*predictions.c, labels.c.labels.label("came"))
        asked = asked.where(predictions.c.id.between(first, last)).order_by(predictions.c.id)
        return self._connection.execute(asked)

    def _rows(self, request: Row[Any]) -> Iterator[dict[str, Any]]:
        """The rows of a request, by column."""
        names, own = self._names[request.model_version], self.own
        shared = {own[name]: getattr(request, name) for name in (*BEFORE, *AFTER) if name not in ("row", "label")}
        shared[own["time"]] = datetime.fromtimestamp(request.time, UTC)
        came = [] if request.came is None else _decode(request.came)
        if len(came) != request.n_rows:
            came = [None] * request.n_rows
        rows = zip(_decode(request.features), _decode(request.predictions), came, strict=True)
        for number, (features, scores, label) in enumerate(rows):
            named = chain(zip(names.features, features, strict=True), zip(names.scores, scores, strict=True))
            yield {**shared, own["row"]: number, own["label"]: label, **dict(named)}


def _numbered(name: str, width: int) -> Sequence[str]:
    return [name] if width == 1 else [f"{name}_{i}" for i in range(width)]


def _unique(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Each name once, in the order in which they first come."""
    return tuple(dict.fromkeys(chain.from_iterable(names)))
