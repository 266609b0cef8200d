"""The client against the served process, and against a server that fails on purpose. Sync and async behave alike."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import stamina.instrumentation

from causeway import errors
from causeway.client import Answer, AsyncClient, Client, Retry, Timeout
from causeway.errors import CallTimedOut, Refusal, UnexpectedAnswer, Unreachable
from load_tests.machine import free_port
from models.transactions import CONTRACT
from tests.conftest import PATIENCE_S, ROOT, Server
from tests.test_errors import REFUSALS

NAMES = CONTRACT.names
ROWS = [
    [57.16, 0, 0, 6, 73.3, 23, 64.1, 91, 77.7, 5, 0.0, 30, 0.033, 140, 0.014],
    [312.5, 1, 1, 1, 312.5, 4, 150.0, 12, 88.8, 2, 1.0, 9, 0.75, 33, 0.5],
    [9.99, 0, 1, 3, 12.0, 20, 11.5, 80, 10.9, 0, 0.0, 0, 0.0, 0, 0.0],
]
ONCE = Retry(attempts=1)
QUICK = Retry(attempts=3, first_wait_s=0.001, jitter_s=0)
SOON = Timeout(answer_s=0.2)
CLOCK_S = 0.02
"""How much earlier than asked a sleep may end by the clock of another thread."""


Use = Callable[[Any], Any]
"""What is done with a client: `lambda client: client.predict(ROWS)`."""


def sync_call(url: str, *uses: Use, **options: Any) -> Any:
    """What the last of `uses` returns, in turn on one `Client`."""
    with Client(url, **options) as client:
        return [use(client) for use in uses][-1]


def async_call(url: str, *uses: Use, **options: Any) -> Any:
    """What the last of `uses` returns, in turn on one `AsyncClient`."""

    async def run() -> Any:
        async with AsyncClient(url, **options) as client:
            return [await use(client) for use in uses][-1]

    return asyncio.run(run())


@pytest.fixture(params=[sync_call, async_call], ids=["sync", "async"])
def call(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Either client, so that every test shows that both behave alike."""
    return request.param


def predict(rows: Any = ROWS, **arguments: Any) -> Use:
    """Scores `rows`; a callable makes them anew, as a generator can be read once."""
    return lambda client: client.predict(rows() if callable(rows) else rows, **arguments)


# The served process


@pytest.fixture(scope="module")
def expected(server: Server) -> np.ndarray:
    """Predictions for ROWS, asked for without the client."""
    request = urllib.request.Request(
        f"{server.url}/predict", json.dumps({"features": ROWS}).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        return np.array(json.load(response)["predictions"], dtype=np.float32)


def _pandas(rows: list[list[float]] = ROWS) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(NAMES))
    counts = {name: "Int64" for name in NAMES if "_NB_TX_" in name}
    means = {name: "float32" for name in NAMES if "_AVG_" in name}
    return frame.astype({**counts, **means, "TX_DURING_WEEKEND": "bool", "TX_DURING_NIGHT": "boolean"})


def _polars(rows: list[list[float]] = ROWS) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=list(NAMES), orient="row")
    counts = [pl.col(name).cast(pl.UInt16) for name in NAMES if "_NB_TX_" in name]
    means = [pl.col(name).cast(pl.Float32) for name in NAMES if "_AVG_" in name]
    return frame.with_columns(*counts, *means, pl.col("TX_DURING_WEEKEND", "TX_DURING_NIGHT").cast(pl.Boolean))


FORMS: dict[str, Any] = {
    "lists": ROWS,
    "tuples": tuple(map(tuple, ROWS)),
    "a generator of generators": lambda: ((value for value in row) for row in ROWS),
    "an array": np.array(ROWS),
    "a float32 array": np.array(ROWS, dtype=np.float32),
    "a Fortran-ordered array": np.asfortranarray(ROWS),
    "an object array": np.array(ROWS, dtype=object),
    "a list of arrays": [np.array(row) for row in ROWS],
    "lists of numpy floats": [[np.float32(value) for value in row] for row in ROWS],
    "lists of numpy integers and longer floats": [
        [np.int64(value) if value == int(value) else np.longdouble(value) for value in row] for row in ROWS
    ],
    "lists of decimals": [[Decimal(str(value)) for value in row] for row in ROWS],
    "mappings": [dict(zip(NAMES, row, strict=True)) for row in ROWS],
    "mappings of numpy scalars": [dict(zip(NAMES, np.array(row), strict=True)) for row in ROWS],
    "pandas": _pandas(),
    "pandas with columns in another order": _pandas()[list(reversed(NAMES))],
    "pandas with columns of Arrow": _pandas().convert_dtypes(dtype_backend="pyarrow"),
    "pandas of objects": pd.DataFrame(ROWS, columns=list(NAMES), dtype=object),
    "polars": _polars(),
    "polars with columns in another order": _polars().select(list(reversed(NAMES))),
}


@pytest.mark.parametrize("rows", FORMS.values(), ids=FORMS)
def test_rows_in_every_form_get_the_same_predictions(
    call: Callable[..., Any], server: Server, expected: np.ndarray, rows: Any
) -> None:
    answer = call(server.url, predict(rows))
    assert answer.predictions.dtype == np.float32
    assert answer.predictions.shape == (len(ROWS), 1)
    np.testing.assert_array_equal(answer.predictions, expected)


def test_an_array_of_booleans_counts_as_zeros_and_ones(call: Callable[..., Any], server: Server) -> None:
    flags = np.array(ROWS) == 1
    forms = (flags.astype(float), flags, flags.astype(object))
    numbers, booleans, objects = (call(server.url, predict(form)).predictions for form in forms)
    np.testing.assert_array_equal(booleans, numbers)
    np.testing.assert_array_equal(objects, numbers)


def test_a_large_array_gets_one_prediction_a_row_in_its_order(
    call: Callable[..., Any], server: Server, expected: np.ndarray
) -> None:
    answer = call(server.url, predict(np.tile(np.array(ROWS), (3000, 1))))
    np.testing.assert_array_equal(answer.predictions, np.tile(expected, (3000, 1)))


def test_an_answer_says_who_made_it(call: Callable[..., Any], server: Server) -> None:
    answer = call(server.url, predict(request_id="order-7", routing_key="customer 12"))
    assert answer.request_id == "order-7"
    assert answer.model_version.startswith("fraud:")
    assert answer.variant == "champion"
    assert answer.latency_ms > 0


def test_a_version_can_be_asked_for(call: Callable[..., Any], server: Server) -> None:
    served = call(server.url, lambda client: client.health())
    assert call(server.url, predict(model_version=served)).model_version == served
    with pytest.raises(errors.VersionNotLoaded) as refused:
        call(server.url, predict(model_version="fraud:another"))
    assert refused.value.loaded == [served]


def test_health_names_the_version_that_answers(call: Callable[..., Any], server: Server) -> None:
    assert call(server.url, lambda client: client.health()) == call(server.url, predict()).model_version


def test_a_timeout_of_an_hour_is_one_that_the_service_understands(call: Callable[..., Any], server: Server) -> None:
    assert call(server.url, predict(), timeout=Timeout(answer_s=3600.5)).model_version


def test_threads_that_share_a_client_get_their_own_answers(server: Server, expected: np.ndarray) -> None:
    with Client(server.url) as client, ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: client.predict([ROWS[i % 3]], request_id=f"thread-{i}"), range(60)))
    _assert_each_has_its_own(answers, "thread", expected)


def test_tasks_that_share_a_client_get_their_own_answers(server: Server, expected: np.ndarray) -> None:
    async def run() -> list[Answer]:
        async with AsyncClient(server.url) as client:
            return await asyncio.gather(
                *(client.predict([ROWS[i % 3]], request_id=f"task-{i}") for i in range(60)),
            )

    _assert_each_has_its_own(asyncio.run(run()), "task", expected)


def _assert_each_has_its_own(answers: list[Answer], prefix: str, expected: np.ndarray) -> None:
    assert [answer.request_id for answer in answers] == [f"{prefix}-{i}" for i in range(60)]
    np.testing.assert_array_equal(np.vstack([answer.predictions for answer in answers]), np.tile(expected, (20, 1)))


def _with(row: int, column: int, value: object) -> list[list[Any]]:
    """ROWS with one value changed."""
    rows: list[list[Any]] = [list(values) for values in ROWS]
    rows[row][column] = value
    return rows


def _by_name(rows: list[list[Any]]) -> list[dict[str, Any]]:
    return [dict(zip(NAMES, row, strict=True)) for row in rows]


AT_1_4 = {"row": 1, "column": 4, "name": NAMES[4]}
AT_1_2 = {"row": 1, "column": 2, "name": NAMES[2]}
REFUSED: dict[str, tuple[Any, type[Refusal], dict[str, Any]]] = {
    "no rows": ([], errors.NoRows, {}),
    "an empty generator": (lambda: iter(()), errors.NoRows, {}),
    "an array without rows": (np.empty((0, 15)), errors.NoRows, {}),
    "a pandas frame without rows": (_pandas()[:0], errors.NoRows, {}),
    "a polars frame without rows": (_polars()[:0], errors.NoRows, {}),
    "one row where rows are due": (ROWS[0], errors.FeaturesNot2D, {"row": 0}),
    "a 1-D array": (np.array(ROWS[0]), errors.FeaturesNot2D, {"row": 0}),
    "a 0-D array": (np.array(1.0), errors.FeaturesNot2D, {}),
    "a pandas series": (_pandas().iloc[0], errors.FeaturesNot2D, {"row": 0}),
    "a 3-D array": (np.ones((2, 15, 2)), errors.FeaturesNot2D, {"row": 0}),
    "rows of two widths": ([ROWS[0], ROWS[1][:-1]], errors.RaggedRows, {"row": 1, "expected": 15, "got": 14}),
    "a narrow array": (np.array(ROWS)[:, 1:], errors.WrongWidth, {"expected": 15, "got": 14}),
    "a string": (_with(1, 4, "1.5"), errors.NotANumber, {**AT_1_4, "got": "a string"}),
    "None": (_with(1, 4, None), errors.NotANumber, {**AT_1_4, "got": "null"}),
    "a date": (_with(1, 4, datetime.now(UTC)), errors.NotANumber, {**AT_1_4, "got": "null"}),
    "pandas.NA in a list": (_with(1, 4, pd.NA), errors.NotANumber, {**AT_1_4, "got": "null"}),
    "NaN in a list": (_with(1, 4, float("nan")), errors.NotFinite, AT_1_4),
    "NaN in an array": (np.array(_with(1, 4, np.nan)), errors.NotFinite, AT_1_4),
    "infinity in a float32 array": (np.array(_with(1, 4, np.inf), dtype=np.float32), errors.NotFinite, AT_1_4),
    "an integer beyond every float": (_with(1, 4, 10**400), errors.NotFinite, AT_1_4),
    "a missing value in pandas": (_pandas(_with(1, 4, None)), errors.NotFinite, AT_1_4),
    "a missing integer in pandas": (
        _pandas(_with(1, 3, None)),
        errors.NotFinite,
        {"row": 1, "column": 3, "name": NAMES[3]},
    ),
    "a missing boolean in pandas": (_pandas(_with(1, 2, None)), errors.NotANumber, {**AT_1_2, "got": "null"}),
    "a missing value in polars": (_polars(_with(1, 4, None)), errors.NotFinite, AT_1_4),
    "a missing boolean in polars": (_polars(_with(1, 2, None)), errors.NotANumber, {**AT_1_2, "got": "null"}),
    "half a transaction": (_with(0, 3, 1.5), errors.NotAnInteger, {"row": 0, "column": 3, "name": NAMES[3]}),
    "a negative amount": (_with(2, 0, -1), errors.OutOfRange, {"row": 2, "column": 0, "minimum": 0}),
    "a date beside the features": (
        _pandas().assign(TX_DATETIME=pd.Timestamp(2018, 7, 25)),
        errors.UnknownName,
        {"row": 0},
    ),
    "a name in small letters": (
        _pandas().rename(columns={"TX_AMOUNT": "tx_amount"}),
        errors.UnknownName,
        {"row": 0, "suggestion": "TX_AMOUNT"},
    ),
    "a frame with one column twice": (
        _pandas()[[*NAMES, NAMES[4]]],
        errors.NotANumber,
        {"row": 0, "column": 4, "got": "an array"},
    ),
    "a frame without names": (pd.DataFrame(ROWS), errors.UnknownName, {"row": 0}),
    "a frame without one column": (_polars().drop(NAMES[4]), errors.MissingName, {"row": 0, "column": 4}),
    "a row without a name": (
        [*_by_name(ROWS), {"TX_AMOUNT": 1}],
        errors.MissingName,
        {"row": 3, "column": 1},
    ),
    "one mapping where rows are due": (_by_name(ROWS)[0], errors.RowsNotObjects, {}),
    "a list among mappings": ([*_by_name(ROWS), ROWS[0]], errors.RowsNotObjects, {"row": 3}),
    "more rows than one request may have": (np.zeros((10_001, 15)), errors.TooManyRows, {"limit_rows": 10_000}),
    "more bytes than one request may have": (
        np.random.default_rng(0).random((40_000, 15)),
        errors.BodyTooLarge,
        {"limit_bytes": 8 * 1024 * 1024},
    ),
}


@pytest.mark.parametrize(("rows", "refusal", "facts"), REFUSED.values(), ids=REFUSED)
def test_rows_that_the_service_refuses_raise_the_refusal_with_its_facts(
    call: Callable[..., Any], server: Server, rows: Any, refusal: type[Refusal], facts: dict[str, Any]
) -> None:
    with pytest.raises(refusal) as refused:
        call(server.url, predict(rows, request_id="id-1"))
    assert type(refused.value) is refusal
    assert {name: refused.value.facts.get(name) for name in facts} == facts
    assert refused.value.request_id == "id-1"


@pytest.mark.parametrize("key", ["", " padded ", "Müller", "two\nlines", "x" * 257])
def test_a_routing_key_that_no_header_can_carry_is_refused_by_the_name_of_the_header(
    call: Callable[..., Any], server: Server, key: str
) -> None:
    with pytest.raises(errors.InvalidHeader) as refused:
        call(server.url, predict(routing_key=key))
    assert refused.value.header == "X-Routing-Key"


@pytest.mark.parametrize("url", ["127.0.0.1:3000", "localhost:3000", "ftp://localhost", ""])
def test_an_address_that_is_no_url_is_refused_at_once(call: Callable[..., Any], url: str) -> None:
    with pytest.raises(ValueError, match="must begin with http"):
        call(url, predict())


# A server that fails on purpose


@dataclass(frozen=True)
class Request:
    """One request as it arrived."""

    arrived_s: float
    arrived: datetime
    headers: dict[str, str]
    body: bytes


class Handler(BaseHTTPRequestHandler):
    """Plays the next step of the server's script; the last one goes on for ever."""

    protocol_version = "HTTP/1.1"
    server: Scripted

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        requests, script = self.server.requests, self.server.script
        step = script[min(len(requests), len(script) - 1)]
        requests.append(
            Request(time.monotonic(), datetime.now(UTC), {k.lower(): v for k, v in self.headers.items()}, body)
        )
        step(self)
        self.server.stepped.set()

    do_GET = do_POST  # noqa: N815 (http.server's names)

    def log_message(self, *args: Any) -> None:
        """Silent."""


Step = Callable[[Handler], None]


class Scripted(ThreadingHTTPServer):
    """A server on a free port that plays `script`, one step a request, and keeps the requests."""

    def __init__(self, *script: Step) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script = script
        self.requests: list[Request] = []
        self.stepped = threading.Event()
        self.over = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error; anything else is one of the test's own."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        """Ends every thread."""
        self.over.set()
        self.shutdown()
        self.server_close()
        self._thread.join(PATIENCE_S)


@pytest.fixture
def play() -> Iterator[Callable[..., Scripted]]:
    """Starts servers that play scripts."""
    servers: list[Scripted] = []

    def start(*script: Step) -> Scripted:
        servers.append(Scripted(*script))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def reply(status: int, body: object = b"", **headers: str) -> Step:
    """Answers with bytes, or with an object as JSON; `Retry_After="1"` is a header."""

    def step(handler: Handler) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in {**headers, "Content_Length": str(len(content))}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(content)

    return step


def refuse(refusal: Refusal, **headers: str) -> Step:
    """Refuses as the service does."""
    return reply(refusal.status, refusal.body("id-1"), **headers)


GOOD = {"model_version": "fraud:v1", "variant": "champion", "request_id": "id-1", "latency_ms": 0.5}
OK = reply(200, {"predictions": [[0.25]] * len(ROWS), **GOOD})
HTML = b"<html><body>Bad gateway</body></html>"
NOT_READY = errors.NotReady("it is being loaded")


def ok_then_hang_up(handler: Handler) -> None:
    """Answers, and closes a connection that the client believes to be open."""
    OK(handler)
    handler.close_connection = True


def hang_up(handler: Handler) -> None:
    """Closes the connection without an answer."""
    handler.close_connection = True


def break_off(handler: Handler) -> None:
    """Closes the connection in the middle of an answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"predictions": [[')
    handler.close_connection = True


def fall_silent(handler: Handler) -> None:
    """Never answers."""
    handler.server.over.wait(PATIENCE_S)
    handler.close_connection = True


def trickle(handler: Handler) -> None:
    """Sends an answer that has no end, piece by piece, for as long as somebody listens."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.close_connection = True
    while not handler.server.over.wait(0.02):
        handler.wfile.write(b" ")


GATEWAY_ERROR = {"code": "E1", "error": "upstream", "message": "not one of ours"}
FAILURES: dict[str, tuple[Step, type[Exception], dict[str, Any], int]] = {
    "not ready": (refuse(NOT_READY), errors.NotReady, {"status": 503, "retry_after_s": None}, 3),
    "a busy service of a newer version": (
        reply(503, {"error": "Full", "code": "full", "request_id": "id-1", "limit": 8}),
        Refusal,
        {"status": 503, "code": "full", "limit": 8},
        3,
    ),
    "a proxy without a service": (reply(502, HTML), UnexpectedAnswer, {"status": 502}, 3),
    "a proxy that is full": (reply(503, HTML), UnexpectedAnswer, {"status": 503}, 3),
    "a proxy that slows callers down": (reply(429, GATEWAY_ERROR), UnexpectedAnswer, {"status": 429}, 3),
    "a connection that is closed": (hang_up, Unreachable, {}, 3),
    "a connection that breaks in an answer": (break_off, Unreachable, {}, 3),
    "an answer that does not unzip": (reply(200, b"no gzip", Content_Encoding="gzip"), Unreachable, {}, 3),
    "a proxy that waited too long": (reply(504, HTML), UnexpectedAnswer, {"status": 504}, 1),
    "an error of another service": (reply(400, GATEWAY_ERROR), UnexpectedAnswer, {"status": 400}, 1),
    "a broken server": (reply(500, HTML), UnexpectedAnswer, {"status": 500}, 1),
    "another address": (reply(307, Location="http://127.0.0.1:1/"), UnexpectedAnswer, {"status": 307}, 1),
    "a server that never answers": (fall_silent, CallTimedOut, {}, 1),
    "an answer that never ends": (trickle, CallTimedOut, {}, 1),
}


@pytest.mark.parametrize(("step", "error", "facts", "attempts"), FAILURES.values(), ids=FAILURES)
def test_each_kind_of_failure_has_its_class_and_its_number_of_attempts(
    call: Callable[..., Any],
    play: Callable[..., Scripted],
    step: Step,
    error: type[Exception],
    facts: dict[str, Any],
    attempts: int,
) -> None:
    server = play(step)
    timeout = SOON if error is CallTimedOut else Timeout()
    with pytest.raises(error) as failed:
        call(server.url, predict(request_id="id-1"), timeout=timeout, retry=QUICK)
    assert type(failed.value) is error
    assert {name: getattr(failed.value, name) for name in facts} == facts
    assert failed.value.request_id == "id-1"
    assert len(server.requests) == attempts


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda refusal: refusal.code)
def test_each_refusal_raises_its_class_and_only_those_that_may_pass_are_tried_again(
    call: Callable[..., Any], play: Callable[..., Scripted], refusal: Refusal
) -> None:
    server = play(refuse(refusal))
    with pytest.raises(type(refusal)) as refused:
        call(server.url, predict(), retry=QUICK)
    assert type(refused.value) is type(refusal)
    assert refused.value.facts == refusal.facts
    may_pass = errors.NotReady | errors.Overloaded | errors.DatabaseUnreachable | errors.DeviceLost
    assert len(server.requests) == (3 if isinstance(refusal, may_pass) else 1)


NONSENSE: dict[str, object] = {
    "HTML": HTML,
    "nothing": b"",
    "bytes that are no text": b"\xff\xfe\xfa",
    "a list": [],
    "brackets without end": b"[" * 100_000,
    "no predictions": GOOD,
    "no model version": {"predictions": [[0.25]] * 3},
    "a prediction too few": {**GOOD, "predictions": [[0.25]] * 2},
    "predictions in one dimension": {**GOOD, "predictions": [0.25] * 3},
    "predictions of two widths": {**GOOD, "predictions": [[0.25], [0.25], [0.25, 0.5]]},
    "a string": {**GOOD, "predictions": [["0.25"]] * 3},
    "null": {**GOOD, "predictions": [[0.25], [0.25], [None]]},
    "NaN": {**GOOD, "predictions": [[0.25], [0.25], [float("nan")]]},
    "more than a 32-bit float holds": {**GOOD, "predictions": [[0.25], [0.25], [1e300]]},
}


@pytest.mark.parametrize("body", NONSENSE.values(), ids=NONSENSE)
def test_a_200_with_nonsense_is_an_unexpected_answer(
    call: Callable[..., Any], play: Callable[..., Scripted], body: object
) -> None:
    server = play(reply(200, body))
    with pytest.raises(UnexpectedAnswer) as failed:
        call(server.url, predict())
    assert failed.value.status == 200
    assert len(server.requests) == 1


@pytest.mark.parametrize("body", [b"", HTML, [], {}, {"version": 3}])
def test_health_without_a_version_is_an_unexpected_answer(
    call: Callable[..., Any], play: Callable[..., Scripted], body: object
) -> None:
    with pytest.raises(UnexpectedAnswer):
        call(play(reply(200, body)).url, lambda client: client.health())


def test_health_of_a_service_that_is_not_ready_gives_the_reason_and_is_asked_once(
    call: Callable[..., Any], play: Callable[..., Scripted]
) -> None:
    server = play(refuse(NOT_READY, Retry_After="3"))
    with pytest.raises(errors.NotReady) as refused:
        call(server.url, lambda client: client.health())
    assert (refused.value.reason, refused.value.retry_after_s) == ("it is being loaded", 3)
    assert len(server.requests) == 1


def test_nobody_at_the_address_is_unreachable(call: Callable[..., Any]) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(Unreachable) as failed:
        call(url, predict(request_id="id-1"), retry=QUICK)
    assert failed.value.url == f"{url}/predict"
    assert failed.value.request_id == "id-1"


PASSING = {
    "not ready": refuse(NOT_READY),
    "not ready until now": refuse(NOT_READY, Retry_After="0"),
    "not ready until a date that has passed": refuse(NOT_READY, Retry_After="Wed, 25 Jul 2018 00:00:00 GMT"),
    "a proxy without a service": reply(502, HTML),
    "a connection that is closed": hang_up,
    "a connection that breaks in an answer": break_off,
}


@pytest.mark.parametrize("step", PASSING.values(), ids=PASSING)
def test_a_failure_that_passes_is_not_seen_by_the_caller(
    call: Callable[..., Any], play: Callable[..., Scripted], step: Step
) -> None:
    server = play(step, step, OK)
    answer = call(server.url, predict(), retry=QUICK)
    assert answer.predictions.tolist() == [[0.25]] * 3
    assert len(server.requests) == 3


def test_a_connection_that_the_server_closed_meanwhile_does_not_harm_the_next_call(
    call: Callable[..., Any], play: Callable[..., Scripted]
) -> None:
    server = play(ok_then_hang_up)
    assert call(server.url, *[predict()] * 5).predictions.tolist() == [[0.25]] * 3
    assert len(server.requests) == 5


def test_a_retry_carries_the_same_request_id_and_body(call: Callable[..., Any], play: Callable[..., Scripted]) -> None:
    server = play(hang_up, refuse(NOT_READY), OK)
    call(server.url, predict(lambda: iter(ROWS), routing_key="customer 12"), retry=QUICK)
    first, *others = server.requests
    assert len(others) == 2
    assert all((other.headers, other.body) == (first.headers, first.body) for other in others)
    assert json.loads(first.body) == {"features": ROWS}
    assert len(first.headers["x-request-id"]) == 32
    assert first.headers["x-routing-key"] == "customer 12"


def test_no_two_calls_share_a_request_id_unless_the_caller_says_so(
    call: Callable[..., Any], play: Callable[..., Scripted]
) -> None:
    server = play(OK)
    call(server.url, predict(), predict(), predict(request_id="mine"), predict(request_id="mine"))
    ids = [request.headers["x-request-id"] for request in server.requests]
    assert len(set(ids[:2])) == 2
    assert ids[2:] == ["mine", "mine"]


def test_the_service_is_told_how_long_the_client_waits(call: Callable[..., Any], play: Callable[..., Scripted]) -> None:
    server = play(OK)
    call(server.url, predict(), timeout=Timeout(answer_s=2.5))
    assert float(server.requests[0].headers["x-timeout-ms"]) == 2500


def _gaps_s(server: Scripted) -> list[float]:
    times = [request.arrived_s for request in server.requests]
    return [later - earlier for earlier, later in itertools.pairwise(times)]


@pytest.mark.parametrize("busy", [refuse(NOT_READY, Retry_After="1"), reply(503, HTML, Retry_After="1")])
def test_no_attempt_comes_before_the_seconds_of_retry_after(
    call: Callable[..., Any], play: Callable[..., Scripted], busy: Step
) -> None:
    server = play(busy, OK)
    call(server.url, predict(), retry=QUICK)
    assert [gap >= 1 - CLOCK_S for gap in _gaps_s(server)] == [True]


def test_no_attempt_comes_before_the_date_of_retry_after(
    call: Callable[..., Any], play: Callable[..., Scripted]
) -> None:
    date = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    server = play(refuse(NOT_READY, Retry_After=format_datetime(date, usegmt=True)), OK)
    call(server.url, predict(), retry=QUICK)
    first, second = server.requests
    assert first.arrived < date
    assert second.arrived >= date - timedelta(seconds=CLOCK_S)


@pytest.mark.parametrize("header", ["6", "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
@pytest.mark.parametrize("kind", ["service", "proxy"])
def test_a_service_that_asks_for_more_than_the_longest_wait_is_not_tried_again(
    call: Callable[..., Any], play: Callable[..., Scripted], header: str, kind: str
) -> None:
    server = play(refuse(NOT_READY, Retry_After=header) if kind == "service" else reply(503, HTML, Retry_After=header))
    with pytest.raises(errors.NotReady if kind == "service" else UnexpectedAnswer) as failed:
        call(server.url, predict(), retry=Retry(max_wait_s=5))
    assert failed.value.retry_after_s > 5
    assert len(server.requests) == 1


@pytest.mark.parametrize("header", ["", "soon", "-1", "1.5", "\xb2", "Fri, 99 Foo 2018", "25 Jul 2018 00:00:00 -0000"])
def test_a_retry_after_that_means_nothing_is_ignored(
    call: Callable[..., Any], play: Callable[..., Scripted], header: str
) -> None:
    server = play(refuse(NOT_READY, Retry_After=header), OK)
    call(server.url, predict(), retry=QUICK)
    assert len(server.requests) == 2


def test_waits_double(call: Callable[..., Any], play: Callable[..., Scripted]) -> None:
    server = play(refuse(NOT_READY), refuse(NOT_READY), refuse(NOT_READY), OK)
    call(server.url, predict(), retry=Retry(attempts=4, first_wait_s=0.05, jitter_s=0))
    assert [gap >= wait - CLOCK_S for gap, wait in zip(_gaps_s(server), (0.05, 0.1, 0.2), strict=True)] == [True] * 3


def test_no_wait_is_longer_than_the_longest(call: Callable[..., Any], play: Callable[..., Scripted]) -> None:
    server = play(refuse(NOT_READY), refuse(NOT_READY), OK)
    call(server.url, predict(), retry=Retry(first_wait_s=10 * PATIENCE_S, max_wait_s=0.01))
    assert len(server.requests) == 3


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "0"}])
def test_jitter_comes_on_top_of_every_wait(
    call: Callable[..., Any],
    play: Callable[..., Scripted],
    monkeypatch: pytest.MonkeyPatch,
    headers: dict[str, str],
) -> None:
    monkeypatch.setattr(random, "uniform", lambda low, high: high)
    server = play(refuse(NOT_READY, **headers), OK)
    call(server.url, predict(), retry=Retry(first_wait_s=0, max_wait_s=0, jitter_s=0.3))
    assert [gap >= 0.3 - CLOCK_S for gap in _gaps_s(server)] == [True]


def test_a_wait_that_would_end_after_the_total_time_is_not_begun(
    call: Callable[..., Any], play: Callable[..., Scripted]
) -> None:
    asked = play(refuse(NOT_READY, Retry_After="4"))
    with pytest.raises(errors.NotReady):
        call(asked.url, predict(), retry=Retry(total_s=3))
    assert len(asked.requests) == 1
    doubling = play(refuse(NOT_READY))
    with pytest.raises(errors.NotReady):
        call(doubling.url, predict(), retry=Retry(attempts=100, first_wait_s=0.05, jitter_s=0, total_s=0.3))
    assert len(doubling.requests) <= 3  # after 0.05 and 0.15 s; the next wait would last until 0.35 s


def test_one_attempt_is_one_request(call: Callable[..., Any], play: Callable[..., Scripted]) -> None:
    server = play(refuse(NOT_READY))
    with pytest.raises(errors.NotReady):
        call(server.url, predict(), retry=ONCE)
    assert len(server.requests) == 1


def test_what_is_logged_of_a_retry_holds_no_rows(call: Callable[..., Any], play: Callable[..., Scripted]) -> None:
    seen: list[str] = []
    stamina.instrumentation.set_on_retry_hooks([lambda details: seen.append(repr(details))])
    try:
        call(play(refuse(NOT_READY), OK).url, predict(), retry=QUICK)
    finally:
        stamina.instrumentation.set_on_retry_hooks(None)
    assert "it is being loaded" in seen[0]
    assert str(ROWS[0][0]) not in seen[0]


def test_a_cancelled_call_ends_without_another_attempt(play: Callable[..., Scripted]) -> None:
    server = play(refuse(NOT_READY, Retry_After="1"))

    async def run() -> None:
        async with AsyncClient(server.url) as client:
            task = asyncio.create_task(client.predict(ROWS))
            assert await asyncio.to_thread(server.stepped.wait, PATIENCE_S)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(run())
    assert len(server.requests) == 1


def test_the_client_needs_nothing_of_what_the_service_needs() -> None:
    code = "import sys, causeway.client; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {"httpx", "numpy", "stamina"} <= set(loaded.split())
    service = {"bentoml", "msgspec", "orjson", "onnxruntime", "structlog", "starlette", "sklearn", "pandas", "polars"}
    assert not service & set(loaded.split())
