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
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, Meta, UnsetType
from sqlalchemy import Connection, Engine, select

from causeway import errors
from causeway.asgi import Answer, Request, json_answer
from causeway.contract import Output
from causeway.monitoring import database
from causeway.monitoring.database import labels, predictions

BODY_BYTES = 512 * 1024
"""What a body may take at most: it is decoded on the event loop, in about 5 ms."""

MAX_ENTRIES = 10_000
"""Entries in one body, at most."""

MAX_WAITING = 20_000
"""Entries that may wait while others are committed; more are refused."""

RETRY_S = 1.0
"""When labels that were not stored are worth sending again."""

IDS_AT_ONCE = 5_000
"""Request ids in one query: SQLite takes 32 766 parameters, PostgreSQL 65 535."""

RequestId = Annotated[str, Meta(pattern=r"^[!-~]{1,128}\Z")]
Labels = Annotated[tuple[float, ...], Meta(min_length=1)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The labels of one request, one for each of its rows."""

    request_id: RequestId
    labels: Labels


class _Body(msgspec.Struct, forbid_unknown_fields=True):
    """One entry, or many."""

    request_id: RequestId | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    feedback: Annotated[tuple[Entry, ...], Meta(min_length=1, max_length=MAX_ENTRIES)] | UnsetType = UNSET


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

    def __init__(self, url: str, *, metrics: Observer, output: Callable[[], Output], max_body_bytes: int) -> None:
        self._url = url
        self._metrics = metrics
        self._output = output
        """The champion's: labels are of its kind."""
        self._max_body_bytes = min(max_body_bytes, BODY_BYTES)
        self._engine: Engine | None = None
        self._thread = ThreadPoolExecutor(1, "feedback")
        self._waiting: list[_Waiting] = []
        self._n_waiting = 0
        self._committing: asyncio.Task[None] | None = None

    async def answer(self, request: Request, timeout_ms: float) -> Answer:
        """POST /feedback. Raises `FeedbackInvalid`, `BodyNotJson`, `BodyTooLarge`, or what `output` and `store` do.

        After a `DeadlineExceeded` the labels may be stored or not.
        """
        output = self._output()
        try:
            async with asyncio.timeout(request.started + timeout_ms / 1000 - time.perf_counter()):
                body = b"".join(await request.pieces(self._max_body_bytes))
                result = await self.store(decode(body, output))
        except TimeoutError:
            raise errors.DeadlineExceeded(timeout_ms) from None
        told = {**msgspec.structs.asdict(result), "request_id": request.id}
        return json_answer(200, msgspec.json.encode(told), request.id)

    async def store(self, entries: Sequence[Entry]) -> Result:
        """Commits all of `entries`, or none. Entries that come during a commit share the next one.

        Raises `FeedbackInvalid` where a request in the log has another number of rows than labels, and
        `DatabaseUnreachable`, also where too many entries wait.
        """
        if self._waiting and self._n_waiting + len(entries) > MAX_WAITING:
            raise errors.DatabaseUnreachable(RETRY_S)
        waiting = _Waiting(entries, asyncio.get_running_loop().create_future())
        self._waiting.append(waiting)
        self._n_waiting += len(entries)
        if self._committing is None or self._committing.done():
            self._committing = asyncio.create_task(self._commit())
        result = await waiting.result
        if isinstance(result, errors.FeedbackInvalid):
            raise result
        self._count(result)
        return result

    def close(self) -> None:
        """Ends the connections, after the commit that is under way."""
        self._thread.shutdown()
        if self._engine is not None:
            self._engine.dispose()

    async def _commit(self) -> None:
        """Commits what waits, until nothing does."""
        while self._waiting:
            group = [waiting for waiting in self._waiting if not waiting.result.done()]  # cancelled at its deadline
            self._waiting, self._n_waiting = [], 0
            try:
                loop = asyncio.get_running_loop()
                results = await loop.run_in_executor(self._thread, self._transaction, [w.entries for w in group])
            except Exception as exc:  # whatever it is, none of these is stored
                for waiting in group:
                    waiting.fail(exc)
            else:
                for waiting, result in zip(group, results, strict=True):
                    waiting.succeed(result)

    def _transaction(self, group: Sequence[Sequence[Entry]]) -> list[Result | errors.FeedbackInvalid]:
        """In the thread: one transaction for all. A refusal leaves its own entries out and no others."""
        if self._engine is None:
            self._engine = database.connect(self._url)
        with self._engine.begin() as connection:
            ledger = _Ledger.of(connection, {entry.request_id for entries in group for entry in entries})
            results = [ledger.take(entries) for entries in group]
            ledger.write(connection, time.time())
        return results

    def _count(self, result: Result) -> None:
        repeated, replaced = len(result.repeated), len(result.replaced)
        self._metrics.feedback("stored", result.accepted - repeated - replaced)
        self._metrics.feedback("repeated", repeated)
        self._metrics.feedback("replaced", replaced)
        self._metrics.feedback("unknown", len(result.unknown))


class _Waiting(NamedTuple):
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
            if n_rows is not None and len(entry.labels) not in n_rows:
                expected = " or ".join(map(str, sorted(n_rows)))
                return errors.FeedbackInvalid(f"{len(entry.labels)} labels for {expected} rows", index)
        repeated: list[str] = []
        replaced: list[str] = []
        for entry in entries:
            text, before = msgspec.json.encode(entry.labels).decode(), self._now.get(entry.request_id)
            if before is not None:
                (repeated if before == text else replaced).append(entry.request_id)
            self._now[entry.request_id] = text
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


def decode(body: bytes, output: Output) -> Sequence[Entry]:
    """The entries of a body, with labels in the `label_range` of `output`.

    Raises `BodyNotJson`, or `FeedbackInvalid` for the first fault.
    """
    try:
        decoded = _DECODER.decode(body)
    except msgspec.ValidationError as exc:
        raise _explained(str(exc)) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise errors.BodyNotJson() from None
    entries = _entries(decoded)
    low, high = label_range(output)
    for index, entry in enumerate(entries):
        if min(entry.labels) < low or max(entry.labels) > high:
            raise errors.FeedbackInvalid(f"labels must be from {low:.15g} to {high:.15g}", index)
    return entries


def label_range(output: Output) -> tuple[float, float]:
    """The least and the greatest label: what the output may be; of several columns, which was right, from 0."""
    return (output.minimum, output.maximum) if output.width == 1 else (0, output.width - 1)


_DECODER = msgspec.json.Decoder(_Body)


def _entries(body: _Body) -> Sequence[Entry]:
    has = [name for name in body.__struct_fields__ if getattr(body, name) is not UNSET]
    if body.feedback is not UNSET and has == ["feedback"]:
        return body.feedback
    if body.request_id is not UNSET and body.labels is not UNSET and len(has) == 2:
        return (Entry(body.request_id, body.labels),)
    raise errors.FeedbackInvalid('The body must have "request_id" and "labels", or "feedback" with a list of these')


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
