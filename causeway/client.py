"""The Python client, sync and async.

    with Client("http://127.0.0.1:3000") as client:
        answer = client.predict([[12.5, 0, 1, ...]])        # lists, NumPy arrays, pandas or polars data frames
        answer.predictions                                  # (n_rows, output width) float32
        client.feedback(answer.request_id, [0])             # what became of the rows, once that is known

A refusal raises its own class of `causeway.errors` (`WrongWidth`, `NotReady`, ...) with the facts that the
service gave; a call without an answer raises a `CallFailed`. Every attempt of one call carries the same X-Request-ID.
Retries are logged by stamina, without the rows; `stamina.instrumentation.set_on_retry_hooks([])` makes it silent.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal, Self

import httpx
import numpy as np
import stamina
from numpy.typing import NDArray

from causeway.errors import CallTimedOut, DeadlineUnreachable, InvalidHeader, Refusal, UnexpectedAnswer, Unreachable

Rows = Iterable[Sequence[float]] | Iterable[Mapping[str, float]] | NDArray[Any] | Any
"""Rows in contract order (lists, an array) or by name (mappings, a pandas or polars data frame).

Boolean arrays and columns count as 0 and 1. A missing value is sent as such: the refusal has its row and column.
"""

Priority = Literal["interactive", "bulk"]
"""Bulk requests get what interactive ones leave, and never nothing."""

FEEDBACK_ENTRIES = 5_000
FEEDBACK_BYTES = 500_000
"""What `feedback_many` puts into one request: half the entries that the service takes, and nearly its bytes."""

RETRIED_STATUS = frozenset({429, 502, 503})
"""Not now, said by the service or by a proxy before it. A deadline that passed (504) stays passed."""


@dataclass(frozen=True)
class Timeout:
    """How long one attempt may take."""

    connect_s: float = 2.0
    """Seconds until a connection stands."""
    answer_s: float = 5.0
    """Seconds until the answer is there; the service is told, and does not score for a caller that has left.
    An answer that arrives in pieces is given up at the first piece after that."""


@dataclass(frozen=True)
class Retry:
    """When a call is tried again: no connection, one that broke, or an answer of `RETRIED_STATUS`.

    A wait is what Retry-After asks for, otherwise `first_wait_s`, twice that, and so on; jitter comes on top.
    """

    attempts: int = 3
    """Attempts in all; 1 turns retries off."""
    first_wait_s: float = 0.1
    """Wait before the second attempt; it doubles from there."""
    max_wait_s: float = 5.0
    """Longest wait, without jitter; a service that asks for more by Retry-After is not tried again."""
    jitter_s: float = 0.1
    """Each wait is longer by a random part of this, so that callers do not come back together."""
    total_s: float = 30.0
    """No attempt starts this many seconds after the first or later; a wait that would last longer is not begun."""


@dataclass(frozen=True, eq=False)
class Answer:
    """One prediction a row, and who made them."""

    predictions: NDArray[np.float32]
    """(n_rows, output width)."""
    model_version: str
    variant: str
    request_id: str
    latency_ms: float
    """Time in the service, in milliseconds."""


@dataclass(frozen=True)
class Feedback:
    """Labels that the service has on its disk."""

    accepted: int
    """Of how many requests: all that were sent."""
    repeated: Sequence[str]
    """Ids of requests whose labels it had before."""
    replaced: Sequence[str]
    """Ids of requests for which it had other labels before."""
    unknown: Sequence[str]
    """Ids that its prediction log does not have, or not yet: it takes some seconds, and leaves some out."""


class _Calls:
    """What both clients share: everything but the waiting. Raises ValueError for a `url` without http:// or https://."""

    def __init__(self, url: str, *, timeout: Timeout = Timeout(), retry: Retry = Retry()) -> None:
        if httpx.URL(url).scheme not in ("http", "https"):
            raise ValueError(f"The service's address must begin with http:// or https://, got {url!r}")
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._retry = retry
        self._limits = httpx.Timeout(timeout.answer_s, connect=timeout.connect_s)

    def _attempts(self) -> Any:
        """The attempts of one call; between them stamina sleeps for as long as `wait_s` says."""
        retry, started = self._retry, time.monotonic()
        backoffs = _doubling(retry.first_wait_s)

        def wait_s(exc: Exception) -> bool | float:
            """Seconds until the next attempt, or False to give up."""
            may_pass = isinstance(exc, Unreachable) or getattr(exc, "status", None) in RETRIED_STATUS
            if not may_pass or isinstance(exc, DeadlineUnreachable):
                return False
            asked = getattr(exc, "retry_after_s", None)
            if asked is not None and asked > retry.max_wait_s:
                return False
            wait = min(next(backoffs), retry.max_wait_s) if asked is None else float(asked)
            wait += random.uniform(0, retry.jitter_s)  # noqa: S311 (not a secret)
            return wait if time.monotonic() - started + wait < retry.total_s else False

        return stamina.retry_context(on=wait_s, attempts=retry.attempts, timeout=None)

    def _predict_call(
        self,
        rows: Rows,
        request_id: str | None,
        routing_key: str | None,
        priority: Priority,
        model_version: str | None,
    ) -> _Call:
        name, values = _named(rows)
        headers = {
            "Content-Type": "application/json",
            "X-Request-ID": new_id() if request_id is None else request_id,
            "X-Timeout-Ms": f"{self._timeout.answer_s * 1000:.3f}",
            **({} if routing_key is None else {"X-Routing-Key": routing_key}),
            **({} if priority == "interactive" else {"X-Priority": priority}),
            **({} if model_version is None else {"X-Model-Version": model_version}),
        }
        # NaN is written as NaN: the service refuses it with its row and column.
        content = _json({name: values})
        n_rows = len(values) if isinstance(values, list) else 0
        return _Call("POST", f"{self.url}/predict", headers, self._timeout.answer_s, content, n_rows)

    def _feedback_calls(self, labels: Mapping[str, Iterable[float]]) -> list[_Call]:
        """As few as the service takes. Raises TypeError unless `labels` has them by request id."""
        if not isinstance(labels, Mapping):
            raise TypeError(f"feedback_many takes labels by request id, {{id: [0, 1]}}, not {type(labels).__name__}")
        parts: list[list[bytes]] = []
        n_bytes = 0
        for request_id, given in labels.items():
            entry = _json({"request_id": request_id, "labels": given})
            n_bytes += len(entry) + 1
            if not parts or n_bytes > FEEDBACK_BYTES or len(parts[-1]) == FEEDBACK_ENTRIES:
                parts.append([])
                n_bytes = len(entry) + 1
            parts[-1].append(entry)
        return [self._feedback_call(b'{"feedback":[%b]}' % b",".join(part)) for part in parts or [[]]]

    def _feedback_call(self, content: bytes) -> _Call:
        headers = {
            "Content-Type": "application/json",
            "X-Request-ID": new_id(),
            "X-Timeout-Ms": f"{self._timeout.answer_s * 1000:.3f}",
        }
        return _Call("POST", f"{self.url}/feedback", headers, self._timeout.answer_s, content)

    def _health_call(self) -> _Call:
        return _Call("GET", f"{self.url}/health", {"X-Request-ID": new_id()}, self._timeout.answer_s)


class Client(_Calls):
    """The sync client; keeps connections open until it is closed, and may be shared by threads."""

    def __init__(self, url: str, *, timeout: Timeout = Timeout(), retry: Retry = Retry()) -> None:
        super().__init__(url, timeout=timeout, retry=retry)
        self._http = httpx.Client(timeout=self._limits)

    def predict(
        self,
        rows: Rows,
        *,
        request_id: str | None = None,
        routing_key: str | None = None,
        priority: Priority = "interactive",
        model_version: str | None = None,
    ) -> Answer:
        """Predictions for `rows`, by `model_version` where that is given. Raises a `Refusal` or a `CallFailed`."""
        call = self._predict_call(rows, request_id, routing_key, priority, model_version)
        for attempt in self._attempts():
            with attempt:
                return call.answer(self._once(call))
        raise AssertionError("the last attempt returns or raises")

    def feedback(self, request_id: str, labels: Iterable[float]) -> Feedback:
        """Stores what became of each row of a request that was answered. Raises a `Refusal` or a `CallFailed`.

        Labels can be sent again: the same ones change nothing, and others replace them.
        """
        return self._feedback(self._feedback_call(_json({"request_id": request_id, "labels": labels})))

    def feedback_many(self, labels: Mapping[str, Iterable[float]]) -> Feedback:
        """The same for several requests, by their ids: either all labels are stored, or none.

        More than `FEEDBACK_ENTRIES` or `FEEDBACK_BYTES` go in several calls, one after another; where one of these
        raises, those before it are stored, and its `entry` counts from its own first.
        """
        return _together([self._feedback(call) for call in self._feedback_calls(labels)])

    def _feedback(self, call: _Call) -> Feedback:
        for attempt in self._attempts():
            with attempt:
                return call.feedback(self._once(call))
        raise AssertionError("the last attempt returns or raises")

    def health(self) -> str:
        """The model version that is serving, asked once. Raises `NotReady` with the reason, or a `CallFailed`."""
        call = self._health_call()
        return call.version(self._once(call))

    def _once(self, call: _Call) -> dict[str, Any]:
        with call.attempt() as pieces, self._http.stream(**call.request) as response:
            for piece in response.iter_bytes():
                pieces.add(piece)
        return call.read(response, pieces.content)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncClient(_Calls):
    """The same for asyncio."""

    def __init__(self, url: str, *, timeout: Timeout = Timeout(), retry: Retry = Retry()) -> None:
        super().__init__(url, timeout=timeout, retry=retry)
        self._http = httpx.AsyncClient(timeout=self._limits)

    async def predict(
        self,
        rows: Rows,
        *,
        request_id: str | None = None,
        routing_key: str | None = None,
        priority: Priority = "interactive",
        model_version: str | None = None,
    ) -> Answer:
        """Predictions for `rows`, by `model_version` where that is given. Raises a `Refusal` or a `CallFailed`."""
        call = self._predict_call(rows, request_id, routing_key, priority, model_version)
        async for attempt in self._attempts():
            with attempt:
                return call.answer(await self._once(call))
        raise AssertionError("the last attempt returns or raises")

    async def feedback(self, request_id: str, labels: Iterable[float]) -> Feedback:
        """Stores what became of each row of a request that was answered. Raises a `Refusal` or a `CallFailed`.

        Labels can be sent again: the same ones change nothing, and others replace them.
        """
        return await self._feedback(self._feedback_call(_json({"request_id": request_id, "labels": labels})))

    async def feedback_many(self, labels: Mapping[str, Iterable[float]]) -> Feedback:
        """The same for several requests, by their ids: either all labels are stored, or none.

        More than `FEEDBACK_ENTRIES` or `FEEDBACK_BYTES` go in several calls, one after another; where one of these
        raises, those before it are stored, and its `entry` counts from its own first.
        """
        return _together([await self._feedback(call) for call in self._feedback_calls(labels)])

    async def _feedback(self, call: _Call) -> Feedback:
        async for attempt in self._attempts():
            with attempt:
                return call.feedback(await self._once(call))
        raise AssertionError("the last attempt returns or raises")

    async def health(self) -> str:
        """The model version that is serving, asked once. Raises `NotReady` with the reason, or a `CallFailed`."""
        call = self._health_call()
        return call.version(await self._once(call))

    async def _once(self, call: _Call) -> dict[str, Any]:
        with call.attempt() as pieces:
            async with self._http.stream(**call.request) as response:
                async for piece in response.aiter_bytes():
                    pieces.add(piece)
        return call.read(response, pieces.content)

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()


@dataclass(frozen=True)
class _Call:
    """One call, whatever the number of attempts: what is sent, and how answers and failures are read."""

    method: str
    url: str
    headers: Mapping[str, str]
    answer_s: float
    content: bytes | None = None
    n_rows: int = 0

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if not _HEADER_VALUE.fullmatch(value):
                raise InvalidHeader(name, "printable ASCII characters, without spaces around them")

    @property
    def request(self) -> dict[str, Any]:
        """Arguments for httpx."""
        return {"method": self.method, "url": self.url, "headers": self.headers, "content": self.content}

    @property
    def request_id(self) -> str:
        """The id that every attempt carries."""
        return self.headers["X-Request-ID"]

    @contextlib.contextmanager
    def attempt(self) -> Iterator[_Pieces]:
        """One attempt from its start: takes the pieces of the answer, and raises httpx's errors as ours."""
        try:
            yield _Pieces(time.monotonic() + self.answer_s)
        except httpx.ConnectTimeout as exc:
            raise Unreachable(self.url, self.request_id, "no connection in time") from exc
        except httpx.TimeoutException as exc:
            raise CallTimedOut(self.url, self.request_id) from exc
        except httpx.RequestError as exc:
            raise Unreachable(self.url, self.request_id, str(exc) or type(exc).__name__) from exc

    def read(self, response: httpx.Response, content: bytearray) -> dict[str, Any]:
        """The object in a 200. Raises the `Refusal` that the service sent, or `UnexpectedAnswer`."""
        try:
            body = json.loads(content)
        except (ValueError, RecursionError):
            body = None
        if isinstance(body, dict) and response.status_code == 200:
            return body
        retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
        if isinstance(body, dict) and body.keys() >= {"error", "code", "request_id"}:
            refusal = Refusal.from_body(response.status_code, body)
            refusal.retry_after_s = retry_after_s
            raise refusal
        raise UnexpectedAnswer(self.url, self.request_id, response.status_code, retry_after_s)

    def answer(self, body: Mapping[str, Any]) -> Answer:
        """The predictions in the `body` of a 200. Raises `UnexpectedAnswer` unless there is one a row."""
        try:
            return Answer(
                predictions=_predictions(body["predictions"], self.n_rows),
                model_version=body["model_version"],
                variant=body["variant"],
                request_id=body["request_id"],
                latency_ms=body["latency_ms"],
            )
        except (KeyError, ValueError) as exc:
            raise UnexpectedAnswer(self.url, self.request_id, 200) from exc

    def feedback(self, body: Mapping[str, Any]) -> Feedback:
        """What was stored, by the `body` of a 200. Raises `UnexpectedAnswer` where it does not say so."""
        try:
            return Feedback(**{name: body[name] for name in Feedback.__dataclass_fields__})
        except KeyError as exc:
            raise UnexpectedAnswer(self.url, self.request_id, 200) from exc

    def version(self, body: Mapping[str, Any]) -> str:
        """The model version in the `body` of a 200. Raises `UnexpectedAnswer` where there is none."""
        version = body.get("version")
        if not isinstance(version, str):
            raise UnexpectedAnswer(self.url, self.request_id, 200)
        return version


@dataclass
class _Pieces:
    """An answer's bytes as they arrive. httpx limits the time for each piece, this the time for all of them."""

    deadline: float
    content: bytearray = field(default_factory=bytearray)

    def add(self, piece: bytes) -> None:
        """Raises httpx's own timeout once the deadline, in monotonic seconds, has passed."""
        if time.monotonic() > self.deadline:
            raise httpx.ReadTimeout("the answer was still arriving")
        self.content += piece


_HEADER_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")


def new_id() -> str:
    """A request id that no other call has: 32 random hexadecimal digits."""
    return uuid.uuid4().hex


def _named(rows: Any) -> tuple[str, Any]:
    """Rows in any accepted form under their name in the request; the service refuses what is none of them."""
    if hasattr(rows, "columns"):  # a pandas or polars data frame
        names = [str(name) for name in rows.columns]
        columns = [_values(rows[name]) for name in rows.columns]
        return "rows", [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if hasattr(rows, "__array__"):
        return "features", _values(rows)
    if isinstance(rows, Mapping):
        return "rows", rows
    rows = list(rows)
    return "rows" if rows and isinstance(rows[0], Mapping) else "features", rows


def _values(array: Any) -> Any:
    """An array or a column as lists, with booleans as 0 and 1; missing ones make it an array of objects."""
    array = np.asarray(array)
    return (np.asarray(_no_booleans(array)) if array.dtype.kind in "bO" else array).tolist()


_no_booleans = np.frompyfunc(lambda value: int(value) if isinstance(value, bool) else value, 1, 1)


def _json(value: object) -> bytes:
    return json.dumps(value, default=_plain, separators=(",", ":")).encode()


def _plain(value: object) -> object:
    """What `json` cannot write, as something that it can; what is no number at all (pandas.NA, a date) as null."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Iterable):
        return _values(value) if hasattr(value, "__array__") else list(value)
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def _together(stored: Sequence[Feedback]) -> Feedback:
    """What several calls stored."""
    names = ("repeated", "replaced", "unknown")
    ids = {name: [each for part in stored for each in getattr(part, name)] for name in names}
    return Feedback(accepted=sum(part.accepted for part in stored), **ids)


def _predictions(values: object, n_rows: int) -> NDArray[np.float32]:
    """(n_rows, output width) finite numbers out of JSON. Raises ValueError for anything else."""
    array = np.array(values)
    if array.dtype.kind not in "fi" or array.ndim != 2 or len(array) != n_rows:
        raise ValueError("not one array of numbers a row")
    if not (np.abs(array) <= np.finfo(np.float32).max).all():
        raise ValueError("not finite")
    return array.astype(np.float32)


def _doubling(value: float) -> Iterator[float]:
    while True:
        yield value
        value *= 2


def _retry_after_s(value: str | None) -> float | None:
    """Seconds in a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3); None without a usable one."""
    if value is None:
        return None
    if re.fullmatch(r"[0-9]+", value):
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
