"""The Python client, sync and async.

    with Client("http://127.0.0.1:3000") as client:
        answer = client.predict([[12.5, 0, 1, ...]])        # lists, NumPy arrays, pandas or polars data frames
        answer.predictions                                  # (n_rows, output width) float32

A refusal raises its own class of `causeway.errors` (`WrongWidth`, `NotReady`, ...) with the facts that the
service gave; a call without an answer raises a `CallFailed`. Every attempt of one call carries the same X-Request-ID.
"""

from __future__ import annotations

import contextlib
import json
import random
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import httpx
import numpy as np
import stamina
from numpy.typing import NDArray

from causeway.errors import CallTimedOut, Refusal, UnexpectedAnswer, Unreachable

Rows = Sequence[Sequence[float]] | Sequence[Mapping[str, float]] | NDArray[Any] | Any
"""Rows in contract order (lists, an array) or by name (mappings, a pandas or polars data frame)."""

RETRIED_STATUS = frozenset({502, 503, 504})


@dataclass(frozen=True)
class Timeout:
    """How long one attempt may take."""

    connect_s: float = 2.0
    """Seconds until a connection stands."""
    answer_s: float = 5.0
    """Seconds until the answer is there; the service is told, and does not score for a caller that has left."""


@dataclass(frozen=True)
class Retry:
    """When a call is tried again: no connection, or the service says that it cannot answer now (503)."""

    attempts: int = 3
    """Attempts in all; 1 turns retries off."""
    first_wait_s: float = 0.1
    """Wait before the second attempt; it doubles from there."""
    max_wait_s: float = 5.0
    """Longest wait; a service that asks for more by Retry-After is not tried again."""
    jitter_s: float = 0.1
    """Each wait is longer by a random part of this, so that callers do not come back together."""
    total_s: float = 30.0
    """No attempt starts after this many seconds."""


@dataclass(frozen=True)
class Answer:
    """One prediction a row, and who made them."""

    predictions: NDArray[np.float32]
    """(n_rows, output width)."""
    model_version: str
    variant: str
    request_id: str
    latency_ms: float
    """Time in the service, in milliseconds."""


class _Calls:
    """What both clients share: everything but the waiting."""

    def __init__(self, url: str, *, timeout: Timeout = Timeout(), retry: Retry = Retry()) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._retry = retry
        self._limits = httpx.Timeout(timeout.answer_s, connect=timeout.connect_s)

    def _attempts(self) -> Any:
        retry = self._retry
        return stamina.retry_context(
            on=self._wait_before_retry,
            attempts=retry.attempts,
            timeout=retry.total_s,
            wait_initial=retry.first_wait_s,
            wait_max=retry.max_wait_s,
            wait_jitter=retry.jitter_s,
        )

    def _wait_before_retry(self, exc: Exception) -> bool | float:
        """Whether to try again, or after how many seconds."""
        if isinstance(exc, Unreachable):
            return True
        if isinstance(exc, UnexpectedAnswer):
            return exc.status in RETRIED_STATUS
        if not isinstance(exc, Refusal) or exc.status != 503:
            return False
        if exc.retry_after_s is None:
            return True
        jitter = random.uniform(0, self._retry.jitter_s)  # noqa: S311 (not a secret)
        return exc.retry_after_s <= self._retry.max_wait_s and exc.retry_after_s + jitter

    def _predict_call(self, rows: Rows, request_id: str | None, routing_key: str | None) -> _Call:
        headers = {"Content-Type": "application/json", "X-Timeout-Ms": f"{self._timeout.answer_s * 1000:g}"}
        if routing_key is not None:
            headers["X-Routing-Key"] = routing_key
        # NaN is written as NaN: the service refuses it with its row and column.
        return _Call("POST", f"{self.url}/predict", request_id or new_id(), headers, json.dumps(_body(rows)).encode())

    def _health_call(self) -> _Call:
        return _Call("GET", f"{self.url}/health", new_id())


class Client(_Calls):
    """The sync client; keeps connections open until it is closed, and may be shared by threads."""

    def __init__(self, url: str, *, timeout: Timeout = Timeout(), retry: Retry = Retry()) -> None:
        super().__init__(url, timeout=timeout, retry=retry)
        self._http = httpx.Client(timeout=self._limits)

    def predict(self, rows: Rows, *, request_id: str | None = None, routing_key: str | None = None) -> Answer:
        """Predictions for `rows`. Raises a `Refusal` or a `CallFailed`."""
        call = self._predict_call(rows, request_id, routing_key)
        for attempt in self._attempts():
            with attempt:
                return call.answer(self._once(call))
        raise AssertionError("the last attempt returns or raises")

    def health(self) -> str:
        """The model version that is serving, asked once. Raises `NotReady` with the reason, or a `CallFailed`."""
        call = self._health_call()
        return call.version(self._once(call))

    def _once(self, call: _Call) -> httpx.Response:
        with call.translated():
            return self._http.request(**call.request)

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class AsyncClient(_Calls):
    """The same for asyncio and trio."""

    def __init__(self, url: str, *, timeout: Timeout = Timeout(), retry: Retry = Retry()) -> None:
        super().__init__(url, timeout=timeout, retry=retry)
        self._http = httpx.AsyncClient(timeout=self._limits)

    async def predict(self, rows: Rows, *, request_id: str | None = None, routing_key: str | None = None) -> Answer:
        """Predictions for `rows`. Raises a `Refusal` or a `CallFailed`."""
        call = self._predict_call(rows, request_id, routing_key)
        async for attempt in self._attempts():
            with attempt:
                return call.answer(await self._once(call))
        raise AssertionError("the last attempt returns or raises")

    async def health(self) -> str:
        """The model version that is serving, asked once. Raises `NotReady` with the reason, or a `CallFailed`."""
        call = self._health_call()
        return call.version(await self._once(call))

    async def _once(self, call: _Call) -> httpx.Response:
        with call.translated():
            return await self._http.request(**call.request)

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
    request_id: str
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None

    @property
    def request(self) -> dict[str, Any]:
        """Arguments for httpx."""
        headers = {**self.headers, "X-Request-ID": self.request_id}
        return {"method": self.method, "url": self.url, "headers": headers, "content": self.content}

    @contextlib.contextmanager
    def translated(self) -> Iterator[None]:
        """httpx's errors as ours."""
        try:
            yield
        except httpx.ConnectTimeout as exc:
            raise Unreachable(self.url, self.request_id, "no connection in time") from exc
        except httpx.TimeoutException as exc:
            raise CallTimedOut(self.url, self.request_id) from exc
        except httpx.TransportError as exc:
            raise Unreachable(self.url, self.request_id, str(exc) or type(exc).__name__) from exc

    def answer(self, response: httpx.Response) -> Answer:
        """The predictions in `response`. Raises the `Refusal` that the service sent, or `UnexpectedAnswer`."""
        body = self._read(response)
        try:
            return Answer(
                predictions=np.array(body["predictions"], dtype=np.float32),
                model_version=body["model_version"],
                variant=body["variant"],
                request_id=body["request_id"],
                latency_ms=body["latency_ms"],
            )
        except (KeyError, TypeError, ValueError) as exc:
            raise UnexpectedAnswer(self.url, self.request_id, response.status_code) from exc

    def version(self, response: httpx.Response) -> str:
        """The model version in `response`. Raises the `Refusal` that the service sent, or `UnexpectedAnswer`."""
        version = self._read(response).get("version")
        if not isinstance(version, str):
            raise UnexpectedAnswer(self.url, self.request_id, response.status_code)
        return version

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            body = response.json()
        except ValueError:
            body = None
        if isinstance(body, dict) and response.status_code == 200:
            return body
        if isinstance(body, dict) and "code" in body and "error" in body:
            refusal = Refusal.from_body(response.status_code, body)
            refusal.retry_after_s = _retry_after_s(response.headers.get("Retry-After"))
            raise refusal
        raise UnexpectedAnswer(self.url, self.request_id, response.status_code)


def new_id() -> str:
    """A request id that no other call has: 32 random hexadecimal digits."""
    return uuid.uuid4().hex


def _body(rows: Rows) -> dict[str, Any]:
    """The JSON object for rows in any accepted form; what is none of them goes as it is, for the service to refuse."""
    if isinstance(rows, np.ndarray):
        return {"features": rows.tolist()}
    if hasattr(rows, "to_dicts"):  # polars
        return {"rows": rows.to_dicts()}
    if hasattr(rows, "to_dict"):  # pandas
        return {"rows": rows.to_dict(orient="records")}
    rows = list(rows)
    if rows and isinstance(rows[0], Mapping):
        return {"rows": [dict(row) for row in rows]}
    return {"features": [list(row) if isinstance(row, Sequence | np.ndarray) else row for row in rows]}


def _retry_after_s(value: str | None) -> float | None:
    """Seconds in a Retry-After header, which holds seconds or a date (RFC 9110, 10.2.3); None without a usable one."""
    if value is None:
        return None
    if value.isdigit():
        return float(value)
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
