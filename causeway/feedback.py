"""What became of rows that were scored: POST /feedback, which is answered once it is on the disk.

    {"request_id": "...", "labels": [0, 1]}                        a label for each row of that request
    {"feedback": [{"request_id": "...", "labels": [0]}, ...]}      of many requests

Either all entries of a body are committed, or none is and the refusal names the entry at fault. The same labels again
change nothing, and others replace those that were there: a body whose answer was lost can always be sent again.

Predictions reach the database later than their callers, and some are left out of it. So labels are kept whatever id
they name; where its prediction is not there, nobody has checked that there is a label for each row.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection, Engine, select

from causeway import errors
from causeway.asgi import Answer, Request, json_answer
from causeway.contract import Output
from causeway.monitoring import database
from causeway.monitoring.database import labels, predictions
from causeway.monitoring.database_thread import DatabaseThread
from causeway.settings import Settings

BODY_BYTES = 512 * 1024
"""What a body may take at most: it is decoded on the event loop, in 10 to 20 ms."""

MAX_ENTRIES = 10_000
"""Entries in one body, at most."""

MAX_WAITING_BYTES = 8 * 1024 * 1024
"""What may wait while others are committed; more is refused."""

ENTRY_BYTES = 300
"""What an entry takes in memory besides its labels, about."""

RETRY_S = 1.0
"""When labels that were not stored are worth sending again."""

IDS_AT_ONCE = 5_000
"""Request ids in one query: SQLite takes 32 766 parameters, PostgreSQL 65 535."""

RequestId = Annotated[str, Meta(pattern=r"^[!-~]{1,128}\Z")]
Labels = Annotated[tuple[float, ...], Meta(min_length=1)]


class Entry(NamedTuple):
    """The labels of one request, one for each of its rows."""

    request_id: str
    labels: str
    """JSON, as the database has them: numbers would take ten times as much while they wait."""
    n_rows: int


class _Given(msgspec.Struct, forbid_unknown_fields=True):
    """An entry as it comes."""

    request_id: RequestId
    labels: Labels


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """One entry, or many."""

    request_id: RequestId | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    feedback: Annotated[tuple[_Given, ...], Meta(min_length=1, max_length=MAX_ENTRIES)] | UnsetType = UNSET


class Result(msgspec.Struct, frozen=True):
    """What was committed."""

    accepted: int
    """Entries, all of which are stored now."""
    repeated: Sequence[str]
    """Request ids of those whose labels were there before."""
    replaced: Sequence[str]
    """Request ids of those that had other labels before."""
    unknown: Sequence[str]
    """Request ids that the prediction log does not have, or not yet."""


class Observer(Protocol):
    """What is told about labels."""

    def feedback(self, result: str, n: int) -> None:
        """Notes `n` entries that are committed: as `stored` (new ones), `repeated` or `replaced`, and as `unknown`."""


class Feedback:
    """The labels that come in by one worker. Nothing is connected before the first of them."""

    def __init__(
        self,
        url: str,
        *,
        metrics: Observer,
        output: Callable[[], Output],
        max_body_bytes: int,
        max_rows: int = Settings.max_rows,
    ) -> None:
        self._metrics = metrics
        self._output = output
        """The champion's: labels are of its kind."""
        self._max_body_bytes = min(max_body_bytes, BODY_BYTES)
        self._max_rows = max_rows
        self._database = DatabaseThread(url, "feedback")
        self._waiting: dict[_Waiting, int] = {}
        """In the order in which they came, with their bytes."""
        self._waiting_bytes = 0
        self._committing: asyncio.Task[None] | None = None

    async def answer(self, request: Request, timeout_ms: float) -> Answer:
        """POST /feedback. Raises `FeedbackInvalid`, `BodyNotJson`, `BodyTooLarge`, or what `output` and `store` do.

        After a `DeadlineExceeded` the labels may be stored or not.
        """
        output = self._output()
        try:
            async with asyncio.timeout(request.started + timeout_ms / 1000 - time.perf_counter()):
                entries = decode(b"".join(await request.pieces(self._max_body_bytes)), output, self._max_rows)
                result = await request.unless_gone(self.store(entries))
        except TimeoutError:
            raise errors.DeadlineExceeded(timeout_ms) from None
        told = {**msgspec.structs.asdict(result), "request_id": request.id}
        return json_answer(200, msgspec.json.encode(told), request.id)

    async def store(self, entries: Sequence[Entry]) -> Result:
        """Commits all of `entries`, or none. Entries that come during a commit share the next one.

        Raises `FeedbackInvalid` where a request in the log has another number of rows than labels, and
        `DatabaseUnreachable`, also where too much waits. Entries whose caller is cancelled do not wait any more.
        """
        n_bytes = sum(ENTRY_BYTES + len(entry.labels) for entry in entries)
        if self._waiting and self._waiting_bytes + n_bytes > MAX_WAITING_BYTES:
            raise errors.DatabaseUnreachable(RETRY_S)
        waiting = _Waiting(entries, asyncio.get_running_loop().create_future())
        self._waiting[waiting] = n_bytes
        self._waiting_bytes += n_bytes
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        try:
            result = await waiting.result
        finally:
            self._waiting_bytes -= self._waiting.pop(waiting, 0)
        if isinstance(result, errors.FeedbackInvalid):
            raise result
        self._count(result)
        return result

    def close(self) -> None:
        """Ends the connections after the commit that is under way. One that hangs is given up: it was not confirmed."""
        self._database.close()

    async def _commit(self) -> None:
        """Commits what waits, until nothing does."""
        while self._waiting:
            group = list(self._waiting)
            self._waiting, self._waiting_bytes = {}, 0
            try:
                results = await self._database.run(partial(_transaction, [waiting.entries for waiting in group]))
            except Exception as exc:  # whatever it is, none of these is stored
                for waiting in group:
                    waiting.fail(exc)
            else:
                for waiting, result in zip(group, results, strict=True):
                    waiting.succeed(result)

    def _count(self, result: Result) -> None:
        repeated, replaced = len(result.repeated), len(result.replaced)
        self._metrics.feedback("stored", result.accepted - repeated - replaced)
        self._metrics.feedback("repeated", repeated)
        self._metrics.feedback("replaced", replaced)
        self._metrics.feedback("unknown", len(result.unknown))


@dataclass(frozen=True, eq=False)
class _Waiting:
    """The entries of one request, and what is to come of them."""

    entries: Sequence[Entry]
    result: asyncio.Future[Result | errors.FeedbackInvalid]

    def succeed(self, result: Result | errors.FeedbackInvalid) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def fail(self, exc: Exception) -> None:
        if not self.result.done():
            refusal = errors.DatabaseUnreachable(RETRY_S)
            refusal.__cause__ = exc
            self.result.set_exception(refusal)


def _transaction(group: Sequence[Sequence[Entry]], engine: Engine) -> list[Result | errors.FeedbackInvalid]:
    """One transaction for all. A refusal leaves its own entries out and no others."""
    with engine.begin() as connection:
        ledger = _Ledger.of(connection, {entry.request_id for entries in group for entry in entries})
        results = [ledger.take(entries) for entries in group]
        ledger.write(connection, time.time())
    return results


class _Ledger:
    """What the database has under some request ids, and what it will have."""

    def __init__(self, stored: Mapping[str, str], n_rows: Mapping[str, set[int]]) -> None:
        self._stored = stored
        self._now = dict(stored)
        self._n_rows = n_rows
        """By id: callers may give several predictions the same one."""

    @classmethod
    def of(cls, connection: Connection, ids: Iterable[str]) -> _Ledger:
        """Reads it."""
        stored: dict[str, str] = {}
        n_rows: defaultdict[str, set[int]] = defaultdict(set)
        for some in _in_parts(sorted(ids)):
            stored.update(
                (row.request_id, row.labels)
                for row in connection.execute(select(labels).where(labels.c.request_id.in_(some)))
            )
            logged = select(predictions.c.request_id, predictions.c.n_rows)
            for row in connection.execute(logged.where(predictions.c.request_id.in_(some))):
                n_rows[row.request_id].add(row.n_rows)
        return cls(stored, n_rows)

    def take(self, entries: Sequence[Entry]) -> Result | errors.FeedbackInvalid:
        """Enters all of `entries`, one after another, or finds the first that does not fit its prediction."""
        for index, entry in enumerate(entries):
            n_rows = self._n_rows.get(entry.request_id)
            if n_rows is not None and entry.n_rows not in n_rows:
                expected = " or ".join(map(str, sorted(n_rows)))
                return errors.FeedbackInvalid(f"{entry.n_rows} labels for {expected} rows", index)
        repeated: list[str] = []
        replaced: list[str] = []
        for entry in entries:
            before = self._now.get(entry.request_id)
            if before is not None:
                (repeated if before == entry.labels else replaced).append(entry.request_id)
            self._now[entry.request_id] = entry.labels
        unknown = [entry.request_id for entry in entries if entry.request_id not in self._n_rows]
        return Result(len(entries), repeated, replaced, unknown)

    def write(self, connection: Connection, now: float) -> None:
        """Writes what changed, in the order of the ids: two workers never wait for each other."""
        changed = [
            {"request_id": request_id, "labels": text, "time": now}
            for request_id, text in sorted(self._now.items())
            if self._stored.get(request_id) != text
        ]
        if changed:
            connection.execute(database.upsert(connection, labels), changed)


def decode(body: bytes, output: Output, max_rows: int) -> Sequence[Entry]:
    """The entries of a body, each with at most `max_rows` labels, which are among the `label_values` of `output`.

    Raises `BodyNotJson`, or `FeedbackInvalid` for the first fault.
    """
    try:
        decoded = _DECODER.decode(body)
    except msgspec.ValidationError as exc:
        raise _explained(str(exc)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise errors.BodyNotJson() from None
    allowed = label_values(output)
    return [_entry(index, given, allowed, max_rows) for index, given in enumerate(_given(decoded))]


class LabelValues(NamedTuple):
    """Which numbers may be labels."""

    least: float
    greatest: float
    are_whole: bool

    def have(self, value: float) -> bool:
        """Whether it is one of them."""
        return self.least <= value <= self.greatest and (not self.are_whole or value.is_integer())

    def __str__(self) -> str:
        if (self.least, self.greatest, self.are_whole) == (0, 1, True):
            return "0 or 1"
        return f"{'whole numbers ' if self.are_whole else ''}from {self.least:.15g} to {self.greatest:.15g}"


def label_values(output: Output) -> LabelValues:
    """Of a probability whether it came true, 0 or 1; of several columns which was right, from 0; or what it may be."""
    if output.width > 1:
        return LabelValues(0, output.width - 1, are_whole=True)
    return LabelValues(output.minimum, output.maximum, are_whole=(output.minimum, output.maximum) == (0, 1))


_DECODER = msgspec.json.Decoder(_Body)


def _given(body: _Body) -> Sequence[_Given]:
    has = [name for name in body.__struct_fields__ if getattr(body, name) is not UNSET]
    if body.feedback is not UNSET and has == ["feedback"]:
        return body.feedback
    if body.request_id is not UNSET and body.labels is not UNSET and len(has) == 2:
        return (_Given(body.request_id, body.labels),)
    raise errors.FeedbackInvalid('The body must have "request_id" and "labels", or "feedback" with a list of these')


def _entry(index: int, given: _Given, allowed: LabelValues, max_rows: int) -> Entry:
    values = given.labels
    if len(values) > max_rows:
        raise errors.FeedbackInvalid(f"{len(values)} labels, but a request has at most {max_rows} rows", index)
    if not all(map(allowed.have, set(values))):
        raise errors.FeedbackInvalid(f"labels must be {allowed}", index)
    text = msgspec.json.encode(values)
    if b"-0.0" in text:
        text = msgspec.json.encode([value + 0.0 for value in values])  # -0.0 becomes 0.0, which is the same label
    return Entry(given.request_id, text.decode(), len(values))


def _explained(message: str) -> errors.FeedbackInvalid:
    """msgspec's message in our words, without names that the caller made up."""
    problem, _, place = message.partition(" - at `$")
    if "unknown field" in problem:
        problem = "Only request_id and labels, or feedback, may be given"
    entry = re.match(r"\.feedback\[(\d+)\]", place)
    field = place[entry.end() if entry else 0 :].strip(".`")
    return errors.FeedbackInvalid(f"{field}: {problem}" if field else problem, int(entry[1]) if entry else None)


def _in_parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), IDS_AT_ONCE):
        yield ids[start : start + IDS_AT_ONCE]
