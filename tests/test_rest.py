"""The wire contract against clients that break it: each gets its refusal, and nobody else notices."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import io
import json
import pickle
import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from causeway import asgi, door, errors, store
from causeway.deployment import Deployment
from causeway.monitoring.metrics import Metrics
from causeway.rest import RequestHeaders, Rest
from causeway.settings import Settings
from causeway.version import ModelVersion
from load_tests.open_loop import client
from models.transactions import CONTRACT
from tests import tiny
from tests.conftest import PATIENCE_S, Server, serving, wait_until

ROW = [12.5, 0, 1, 3, 20.5, 10, 18.2, 40, 19.9, 2, 0.0, 15, 0.25, 70, 0.01]
BY_NAME = dict(zip(CONTRACT.names, ROW, strict=True))
LIMIT_BYTES = Settings().max_body_bytes
CANARY = "kanarie"
"""Stands in hostile payloads, and in nothing that the service may say."""


def features(*rows: object) -> bytes:
    return json.dumps({"features": rows}).encode()


def named(*rows: object) -> bytes:
    return json.dumps({"rows": rows}).encode()


GOOD = features(ROW)


def with_cell(text: str, column: int = 0) -> bytes:
    """Two rows, the second with another text in one place."""
    cells = [json.dumps(cell) for cell in ROW]
    first, cells[column] = ", ".join(cells), text
    return f'{{"features": [[{first}], [{", ".join(cells)}]]}}'.encode()


@dataclass(frozen=True)
class Reply:
    """An HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=partial(pytest.fail, "NaN or Infinity in an answer: "))


@dataclass
class Wire:
    """A connection on which anything can be sent."""

    server: Server
    sock: socket.socket = field(init=False)

    def __post_init__(self) -> None:
        host, port = self.server.url.removeprefix("http://").split(":")
        self.sock = socket.create_connection((host, int(port)), timeout=PATIENCE_S)
        self._file = self.sock.makefile("rb")

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reply(self, *, to_head: bool = False) -> Reply:
        """The next response; fails where the connection ends before it."""
        status = self._file.readline().split(b" ")
        assert len(status) > 1, "the connection was closed without an answer"
        headers = http.client.parse_headers(self._file)
        length = 0 if to_head else int(headers["Content-Length"] or 0)
        return Reply(int(status[1]), headers, self._file.read(length))

    def ask(self, data: bytes) -> Reply:
        self.send(data)
        return self.reply()

    def is_closed(self) -> bool:
        """Waits for the other side to close; False if it says something instead."""
        try:
            return not self._file.read(1)
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def head(method: str = "POST", path: str = "/predict", headers: Mapping[str, str] | None = None) -> bytes:
    """The first part of a request; `headers` replace those of a good one, and None leaves one out."""
    fields = {"Host": "localhost", "Content-Type": "application/json", **(headers or {})}
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items() if value is not None)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def request(body: bytes = GOOD, *, headers: Mapping[str, Any] | None = None, **parts: str) -> bytes:
    return head(headers={"Content-Length": str(len(body)), **(headers or {})}, **parts) + body


def chunked(*pieces: bytes, headers: Mapping[str, str] | None = None) -> bytes:
    """A request with its body in chunks; without the last, empty one."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)
    return head(headers={"Transfer-Encoding": "chunked", **(headers or {})}) + chunks


@pytest.fixture(scope="module")
def expected(home: Path) -> list[list[float]]:
    """What the model predicts for ROW."""
    version = ModelVersion.load(store.find("fraud:latest"))
    predictions: list[list[float]] = version.predict(np.array([ROW], dtype=np.float32)).tolist()
    return predictions


@pytest.fixture
def wire(server: Server) -> Iterator[Wire]:
    with Wire(server) as connection:
        yield connection


@pytest.fixture
def assert_good(expected: list[list[float]]) -> Callable[[Reply], None]:
    """Fails unless a reply is the answer to ROW."""

    def check(reply: Reply) -> None:
        assert reply.status == 200, reply.body
        assert np.array(reply.json["predictions"], dtype=np.float32).tolist() == expected
        assert reply.json["request_id"] == reply.headers["X-Request-ID"]

    return check


def assert_refused(reply: Reply, status: int, code: str, facts: dict[str, Any] | None = None) -> None:
    """Fails unless a reply is the one JSON object of a refusal, with exactly these facts where they are given."""
    assert reply.headers["Content-Type"] == "application/json", reply
    body = reply.json
    assert (reply.status, body["code"]) == (status, code), reply
    assert errors.Refusal.by_code[code].status == status
    assert isinstance(body.pop("error"), str)
    assert body.pop("request_id") == reply.headers["X-Request-ID"]
    if facts is not None:
        assert body == {"code": code, **facts}
    if status == 405:
        assert reply.headers["Allow"].split(", ") == body["allow"]
    if status == 503:
        assert int(reply.headers["Retry-After"]) >= 1
    assert b"Traceback" not in reply.body


NAMES = CONTRACT.names


def at(column: int, **more: Any) -> dict[str, Any]:
    return {"row": 1, "column": column, "name": NAMES[column], **more}


def refused(title: str, status: int, code: str, data: bytes, /, **facts: Any) -> Any:
    return pytest.param(data, status, code, facts, id=title)


def bad(title: str, code: str, body: bytes | str, /, **facts: Any) -> Any:
    return refused(title, 400, code, request(body if isinstance(body, bytes) else body.encode()), **facts)


def bad_header(name: str, value: str, more: str = "") -> Any:
    data = request(headers={name: value}).replace(b"\r\n\r\n", f"{more}\r\n\r\n".encode(), 1)
    return refused(f"{name} {value[:20]!r}{more[:20]!r}", 400, "header_invalid", data, header=name)


def not_found(path: str, method: str = "POST") -> Any:
    endpoints = ["POST /predict", "POST /feedback", "GET /drift", "GET /health", "GET /"]
    return refused(f"{method} {path[:30]}", 404, "not_found", request(method=method, path=path), endpoints=endpoints)


def wrong_method(method: str, path: str, *allow: str) -> Any:
    return refused(f"{method} {path}", 405, "method_not_allowed", request(method=method, path=path), allow=list(allow))


def wrong_type(name: str, **headers: str) -> Any:
    return refused(
        name, 415, "unsupported_media_type", request(headers={k.replace("_", "-"): v for k, v in headers.items()})
    )


REFUSED = [
    # not JSON, not an object, no features
    bad("no body", "body_not_json", b""),
    bad("spaces", "body_not_json", b"  \n"),
    bad("half a body", "body_not_json", GOOD[:-1]),
    bad("two bodies", "body_not_json", GOOD + GOOD),
    bad("trailing comma", "body_not_json", GOOD[:-1] + b",}"),
    bad("comment", "body_not_json", b"/**/" + GOOD),
    bad("byte order mark", "body_not_json", b"\xef\xbb\xbf" + GOOD),
    bad("UTF-16", "body_not_json", GOOD.decode().encode("utf-16")),
    bad("invalid UTF-8 in a field that is ignored", "body_not_json", b'{"x": "\xff", ' + GOOD[1:]),
    bad("NaN in a field that is ignored", "body_not_json", b'{"x": NaN, ' + GOOD[1:]),
    bad("100 000 brackets", "body_not_json", b"[" * 100_000),
    bad("100 000 pairs of brackets", "body_not_json", b'{"features": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    bad("100 000 nested objects", "body_not_json", b'{"features": ' * 100_000),
    *(
        bad(body, "body_not_an_object", body)
        for body in ("[]", "null", "true", "1", '"features"', "NaN", f"[{GOOD.decode()}]")
    ),
    *(bad(body, "features_missing", body) for body in ("{}", '{"features": null}', '{"Features": [[1]]}')),
    bad("both", "features_ambiguous", json.dumps({"features": [ROW], "rows": [BY_NAME]})),
    bad("both, one of them bad", "features_ambiguous", '{"features": "x", "rows": []}'),
    bad("features twice", "name_repeated", b'{"features": [], ' + GOOD[1:]),
    bad("a name twice in a row", "name_repeated", named(BY_NAME).replace(b'"TX_AM', b'"TX_AMOUNT": 1, "TX_AM')),
    # not 2-D, ragged, wrong width
    *(
        bad(f"features {value}", "features_not_2d", f'{{"features": {value}}}')
        for value in ('"abc"', "1", "true", "{}")
    ),
    bad("1-D", "features_not_2d", json.dumps({"features": ROW}), row=0),
    bad("3-D", "features_not_2d", features([ROW]), row=0),
    bad("an array in a cell", "features_not_2d", with_cell("[1]", 4), row=1),
    *(bad(f"a row is {row}", "features_not_2d", features(ROW, row), row=1) for row in (None, 1, CANARY, BY_NAME, True)),
    bad("ragged", "features_ragged", features(ROW, ROW, ROW[:3]), row=2, expected=15, got=3),
    bad("ragged, longer", "features_ragged", features(ROW, [*ROW, CANARY]), row=1, expected=15, got=16),
    bad("too narrow", "features_wrong_width", features(ROW[:14], ROW[:14]), expected=15, got=14),
    bad("too wide", "features_wrong_width", features([*ROW, 1]), expected=15, got=16),
    bad("empty rows", "features_wrong_width", features([], []), expected=15, got=0),
    # strings, null, booleans, NaN, Infinity, 1e400
    bad("a string", "feature_not_a_number", with_cell('"1"', 3), **at(3, got="a string")),
    bad("null", "feature_not_a_number", with_cell("null", 4), **at(4, got="null")),
    bad("true", "feature_not_a_number", with_cell("true", 1), **at(1, got="a boolean")),
    bad("false", "feature_not_a_number", with_cell("false", 14), **at(14, got="a boolean")),
    bad("an object", "feature_not_a_number", with_cell('{"a": 1}', 2), **at(2, got="an object")),
    *(
        bad(text[:12], "feature_not_finite", with_cell(text, 6), **at(6))
        for text in ("NaN", "Infinity", "-Infinity", "1e400", "-1E400", "1" + "0" * 400, "9" * 5000)
    ),
    *(bad(f"{text} for a number", "body_not_json", with_cell(text)) for text in ("01", "+1", ".5", "0x1", "1e", "nan")),
    # outside the hard range
    bad("too much", "feature_out_of_range", with_cell("1000000.01"), **at(0, minimum=0, maximum=1_000_000)),
    bad("much too much", "feature_out_of_range", with_cell("1e300"), **at(0, minimum=0, maximum=1_000_000)),
    bad("too little", "feature_out_of_range", with_cell("-1e-9", 12), **at(12, minimum=0, maximum=1)),
    bad("not whole", "feature_not_an_integer", with_cell("0.5", 2), **at(2)),
    # rows by name
    *(
        bad(f"rows {v}", "rows_not_objects", f'{{"rows": {v}}}')
        for v in ('"abc"', "1", "true", "{}", json.dumps(BY_NAME))
    ),
    *(bad(f"a row by name is {row}", "rows_not_objects", named(BY_NAME, row), row=1) for row in (None, 1, CANARY, ROW)),
    bad("a name too many", "row_unknown_name", named({**BY_NAME, CANARY: 1}), row=0, suggestion=None),
    bad("an empty name", "row_unknown_name", named(BY_NAME, {"": 1}), row=1, suggestion=None),
    bad("half a surrogate pair", "row_unknown_name", b'{"rows": [{"\\ud800": 1}]}', row=0, suggestion=None),
    bad(
        "names in small letters",
        "row_unknown_name",
        named({name.lower(): value for name, value in BY_NAME.items()}),
        row=0,
        suggestion="TX_AMOUNT",
    ),
    bad("10 000 names", "row_unknown_name", named(dict.fromkeys(map(str, range(10_000)), 1)), row=0, suggestion=None),
    bad("no names", "row_missing_name", named(BY_NAME, {}), **at(0)),
    bad(
        "a name too few",
        "row_missing_name",
        named(BY_NAME, {k: v for k, v in BY_NAME.items() if k != NAMES[7]}),
        **at(7),
    ),
    bad(
        "a string by name", "feature_not_a_number", named(BY_NAME, {**BY_NAME, NAMES[5]: "1"}), **at(5, got="a string")
    ),
    bad("NaN by name", "feature_not_finite", named(BY_NAME, {**BY_NAME, NAMES[5]: float("nan")}), **at(5)),
    # too few, too many, too large
    bad("no rows", "no_rows", features()),
    bad("no rows by name", "no_rows", named()),
    refused("10 001 rows", 413, "too_many_rows", request(features(*[ROW] * 10_001)), limit_rows=10_000, got=10_001),
    refused("10 001 bad rows", 413, "too_many_rows", request(named(*[1] * 10_001)), limit_rows=10_000, got=10_001),
    refused(
        "8 MB of empty rows",
        413,
        "too_many_rows",
        request(b'{"features": [' + b"[]," * (LIMIT_BYTES // 3 - 10) + b"[]]}"),
        limit_rows=10_000,
    ),
    refused("a byte too many", 413, "body_too_large", request(GOOD.ljust(LIMIT_BYTES + 1)), limit_bytes=LIMIT_BYTES),
    # methods and paths
    *(wrong_method(method, "/predict", "POST") for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE")),
    *(
        wrong_method("POST", path, "GET", "HEAD")
        for path in ("/health", "/", "/docs.json", "/livez", "/readyz", "/healthz", "/metrics", "/schema.json")
    ),
    *(
        not_found(path)
        for path in (
            *(
                "//predict",
                "/predict/",
                "/./predict",
                "/%2e/predict",
                "/a/../predict",
                "/predict%00",
                "/predict;a",
                "/PREDICT",
            ),
            *("/predict%0aFAKE", "/%ff", "*", "/" + "a" * 60_000, f"/{CANARY}"),
        )
    ),
    *(not_found(path, "GET") for path in ("/nothing", "/assets/x", "/metrics/")),
    refused(
        "a file that is not there",
        404,
        "not_found",
        request(method="GET", path="/static_content/x"),
        endpoints=["GET /"],
    ),
    refused(
        "a file outside",
        404,
        "not_found",
        request(method="GET", path="/static_content/%2e%2e/%2e%2e/x"),
        endpoints=["GET /"],
    ),
    refused(
        "no such range of a file",
        400,
        "header_invalid",
        request(method="GET", path="/static_content/index.css", headers={"Range": "bytes=x"}),
        header="Range",
    ),
    # content types
    wrong_type("text", Content_Type="text/plain"),
    wrong_type("no type", Content_Type=""),
    wrong_type("a type that is not text", Content_Type="\xff"),
    wrong_type("a form", Content_Type="application/x-www-form-urlencoded"),
    wrong_type("multipart", Content_Type="multipart/form-data; boundary=x"),
    wrong_type("Latin-1", Content_Type="application/json; charset=latin-1"),
    wrong_type("two types", Content_Type="application/json, text/plain"),
    wrong_type("BentoML's pickles", Content_Type="application/vnd.bentoml+pickle"),
    wrong_type("gzip", Content_Encoding="gzip"),
    refused(
        "a body that is compressed",
        415,
        "unsupported_media_type",
        request(gzip.compress(GOOD), headers={"Content-Encoding": "gzip"}),
    ),
    # headers
    *(
        bad_header("X-Timeout-Ms", value)
        for value in (
            "0",
            "-1",
            "0.0",
            "nan",
            "inf",
            "1e3",
            "+5",
            "5 5",
            "",
            "\xb2",
            "0x10",
            "1_0",
            ".5",
            "5.",
            "9" * 10_000,
        )
    ),
    *(bad_header("X-Request-ID", value) for value in ("", "a b", "a\tb", "\xe9", "a" * 129)),
    *(bad_header("X-Routing-Key", value) for value in ("", "a\tb", "\xff", "a" * 257)),
    *(bad_header(name, "1", f"\r\n{name}: 1") for name in ("X-Timeout-Ms", "X-Request-ID", "X-Routing-Key")),
    bad_header("Content-Type", "application/json", "\r\nContent-Type: text/plain"),
]


@pytest.mark.parametrize(("data", "status", "code", "facts"), REFUSED)
def test_bad_input_gets_its_refusal_and_the_connection_goes_on(
    wire: Wire, assert_good: Callable[[Reply], None], data: bytes, status: int, code: str, facts: dict[str, Any]
) -> None:
    reply = wire.ask(data)
    assert_refused(reply, status, code, facts)
    assert CANARY.encode() not in reply.body
    if reply.headers["Connection"] == "close":
        assert len(data) > asgi.SKIPPED_BYTES
        assert wire.is_closed()
    else:
        assert_good(wire.ask(request()))


@pytest.mark.parametrize(
    "data",
    [
        request(named(dict(reversed(BY_NAME.items())))),
        request(b'{"unknown": {"field": [1, 1E400]}, ' + GOOD[1:] + b"\r\n"),
        request(headers={"Content-Type": None}),
        request(headers={"Content-Type": "Application/JSON; charset=UTF-8"}),
        request(headers={"Content-Type": 'application/json ;charset="utf-8" '}),
        request(headers={"X-Timeout-Ms": " 5000 "}),
        request(headers={"X-Timeout-Ms": "999999999.5", "X-Routing-Key": "customer 7", "X-Unknown": "\xff"}),
        request(headers={f"X-{i}": str(i) for i in range(2000)}),
        request(headers={"X-Large": "a" * 200_000}),
        request(path="/predict?a=b"),
        request(path="/%70redict"),
        request(path="http://elsewhere/predict"),
        request(headers={"X-HTTP-Method-Override": "GET", "Forwarded": "for=x", "Host": "elsewhere"}),
        request(GOOD.ljust(LIMIT_BYTES)),
        chunked(GOOD, b""),
        chunked(*(GOOD[i : i + 1] for i in range(len(GOOD))), b""),
    ],
    ids=lambda data: repr(data[:60]),
)
def test_what_is_unusual_but_right_is_answered(wire: Wire, assert_good: Callable[[Reply], None], data: bytes) -> None:
    assert_good(wire.ask(data))
    assert_good(wire.ask(request()))


@pytest.mark.parametrize("path", ["/predict", "/health", "/nothing"])
def test_an_answer_to_head_has_no_body(wire: Wire, assert_good: Callable[[Reply], None], path: str) -> None:
    wire.send(head("HEAD", path))
    assert wire.reply(to_head=True).status == {"/predict": 405, "/health": 200, "/nothing": 404}[path]
    assert_good(wire.ask(request()))


@pytest.mark.parametrize("data", [request(), request(b"{}")], ids=["good", "bad"])
def test_the_request_id_is_the_caller_s_or_a_new_one(wire: Wire, data: bytes) -> None:
    own = wire.ask(data.replace(b"\r\n", b"\r\nX-Request-ID: %0d%0a<a>\r\n", 1))
    assert own.headers["X-Request-ID"] == own.json["request_id"] == "%0d%0a<a>"
    new = [wire.ask(data).json["request_id"] for _ in range(3)]
    assert len(set(new)) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in new)


class Trap:
    """Unpickled, it leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize("path", ["/predict", "/", "/schema.json", "/predict/submit", "/__is_ready__"])
def test_a_pickle_is_never_opened(wire: Wire, tmp_path: Path, path: str) -> None:
    body = pickle.dumps({"features": Trap(tmp_path / "mark")})
    headers = {"Content-Type": "application/vnd.bentoml+pickle", "Payload-Container": "DefaultContainer"}
    assert wire.ask(request(body, path=path, headers=headers)).status in (404, 405, 415)
    assert not (tmp_path / "mark").exists()
    pickle.loads(body)
    assert (tmp_path / "mark").exists()


# Connections


TOO_LARGE = {"Content-Length": str(LIMIT_BYTES + 1)}


def test_a_body_that_is_announced_too_large_is_refused_before_it_comes(wire: Wire) -> None:
    wire.send(head(headers=TOO_LARGE) + b'{"features"')
    assert_refused(wire.reply(), 413, "body_too_large", {"limit_bytes": LIMIT_BYTES})
    assert wire.is_closed()


def test_a_body_in_chunks_is_refused_as_soon_as_it_is_too_large(wire: Wire) -> None:
    wire.send(chunked(*[b" " * 65_536] * (LIMIT_BYTES // 65_536)))
    wire.sock.settimeout(0.2)
    with pytest.raises(TimeoutError):
        wire.sock.recv(1, socket.MSG_PEEK)
    wire.sock.settimeout(PATIENCE_S)
    assert_refused(wire.ask(b"1\r\n \r\n"), 413, "body_too_large", {"limit_bytes": LIMIT_BYTES})
    assert wire.is_closed()


def test_a_client_that_asks_first_is_not_told_to_send_what_will_be_refused(wire: Wire) -> None:
    wire.send(head(headers={**TOO_LARGE, "Expect": "100-continue"}))
    assert_refused(wire.reply(), 413, "body_too_large")
    assert wire.is_closed()


@pytest.mark.parametrize("parts", [{"path": "/nothing"}, {"headers": {"Content-Type": "text/plain"}}], ids=str)
def test_its_connection_is_closed_because_the_body_may_come_or_not(wire: Wire, parts: dict[str, Any]) -> None:
    parts["headers"] = {"Expect": "100-continue", "Content-Length": "84", **parts.get("headers", {})}
    wire.send(head(**parts))
    reply = wire.reply()
    assert_refused(reply, 415 if "path" not in parts else 404, reply.json["code"])
    assert reply.headers["Connection"] == "close"
    assert wire.is_closed()


def test_a_client_that_asks_first_is_told_to_go_on(wire: Wire, assert_good: Callable[[Reply], None]) -> None:
    assert wire.ask(head(headers={"Expect": "100-continue", "Content-Length": str(len(GOOD))})).status == 100
    assert_good(wire.ask(GOOD))
    assert_good(wire.ask(request()))


def by_http_client(url: str, body: bytes) -> Reply:
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=PATIENCE_S)
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    response = connection.getresponse()
    reply = Reply(response.status, response.headers, response.read())
    connection.close()
    return reply


def by_httpx(url: str, body: bytes, *, in_chunks: bool = False) -> Reply:
    content = (body[i : i + 65_536] for i in range(0, len(body), 65_536)) if in_chunks else body
    response = httpx.post(f"{url}/predict", content=content, headers={"Content-Type": "application/json"})
    headers = http.client.HTTPMessage()
    for name, value in response.headers.items():
        headers[name] = value
    return Reply(response.status_code, headers, response.content)


def by_curl(url: str, body: bytes, *options: str) -> Reply:
    command = [
        "curl",
        "-sS",
        "-i",
        f"{url}/predict",
        "--data-binary",
        "@-",
        "-H",
        "Content-Type: application/json",
        *options,
    ]
    output = subprocess.run(command, input=body, capture_output=True, check=True).stdout
    *_, first, content = output.split(b"\r\n\r\n")
    status, _, lines = first.partition(b"\r\n")
    headers = http.client.parse_headers(io.BytesIO(lines + b"\r\n\r\n"))
    return Reply(int(status.split()[1]), headers, content)


@pytest.mark.parametrize(
    "post",
    [
        pytest.param(by_http_client, id="http.client"),
        pytest.param(by_httpx, id="httpx"),
        pytest.param(partial(by_httpx, in_chunks=True), id="httpx, in chunks"),
        pytest.param(by_curl, id="curl"),
        pytest.param(lambda url, body: by_curl(url, body, "-H", "Expect:"), id="curl, without asking"),
        pytest.param(lambda url, body: by_curl(url, body, "-H", "Transfer-Encoding: chunked"), id="curl, in chunks"),
    ],
)
@pytest.mark.parametrize("n_bytes", [LIMIT_BYTES + 1, 4 * LIMIT_BYTES], ids=["a byte too many", "four times too many"])
def test_the_sender_of_a_body_that_is_too_large_can_read_the_refusal(
    server: Server, post: Callable[[str, bytes], Reply], n_bytes: int
) -> None:
    assert_refused(post(server.url, b" " * n_bytes), 413, "body_too_large", {"limit_bytes": LIMIT_BYTES})


def test_a_sender_that_never_stops_can_read_the_refusal_and_is_cut_off(wire: Wire) -> None:
    wire.send(chunked(headers={"Content-Type": "text/plain"}))
    assert_refused(wire.reply(), 415, "unsupported_media_type")
    started = time.monotonic()
    with suppress(ConnectionError):
        while time.monotonic() < started + PATIENCE_S:
            wire.send(b"1\r\n \r\n")
            time.sleep(0.01)
    assert asgi.LINGER_S / 2 < time.monotonic() - started < PATIENCE_S


def test_a_sender_that_stops_halfway_gets_the_refusal_and_is_cut_off(wire: Wire) -> None:
    wire.send(chunked(b"[", headers={"Content-Type": "text/plain"}))
    assert_refused(wire.reply(), 415, "unsupported_media_type")
    assert wire.is_closed()


def test_a_body_that_trickles_in_meets_its_deadline(wire: Wire, assert_good: Callable[[Reply], None]) -> None:
    wire.send(head(headers={"Content-Length": "100000", "X-Timeout-Ms": "200"}))
    started = time.monotonic()
    while time.monotonic() < started + 0.5:
        wire.send(b" ")
        time.sleep(0.01)
    assert_refused(wire.reply(), 504, "deadline_exceeded", {"timeout_ms": 200})
    assert wire.is_closed()


def test_a_late_rest_of_a_body_does_not_spoil_the_next_request(
    wire: Wire, assert_good: Callable[[Reply], None]
) -> None:
    wire.send(head(headers={"Content-Length": str(len(GOOD)), "X-Timeout-Ms": "100"}) + GOOD[:10])
    assert_refused(wire.reply(), 504, "deadline_exceeded", {"timeout_ms": 100})
    assert_good(wire.ask(GOOD[10:] + request()))


def test_a_deadline_that_has_passed_when_the_answer_is_there_counts(wire: Wire) -> None:
    assert_refused(
        wire.ask(request(headers={"X-Timeout-Ms": "0.001"})), 504, "deadline_exceeded", {"timeout_ms": 0.001}
    )


def test_a_timeout_is_granted_up_to_a_cap() -> None:
    granted = [
        RequestHeaders.parse({b"x-timeout-ms": value}, Settings(max_timeout_ms=200)).timeout_ms
        for value in (b"199.5", b"200.5", b"999999999")
    ]
    assert granted == [199.5, 200, 200]


def test_a_content_length_that_is_too_short_spoils_only_its_own_connection(
    wire: Wire, server: Server, assert_good: Callable[[Reply], None]
) -> None:
    wire.send(head(headers={"Content-Length": str(len(GOOD) - 3)}) + GOOD)
    assert wire.reply().status == 400
    assert wire.is_closed()
    with Wire(server) as another:
        assert_good(another.ask(request()))


@pytest.mark.parametrize(
    "data",
    [
        *(request(headers={"Content-Length": value}) for value in ("-1", "5x", "+5", "5, 5", "9" * 30)),
        request(headers={"Transfer-Encoding": "chunked"}),
        request(headers={"Transfer-Encoding": "gzip"}),
        request().replace(b"\r\n", b"\r\nContent-Length: 3\r\n", 1),
        chunked().replace(b"\r\n\r\n", b"\r\n\r\nzz\r\n"),
        chunked().replace(b"\r\n\r\n", b"\r\n\r\n-5\r\n"),
        request(headers={"X-Request-ID": "a\rb"}),
        request(headers={"X-Request-ID": "a\nSet-Cookie: a"}),
        request(headers={"X-Request-ID": "a\x00b"}),
        request(headers={"X-\xe9": "1"}),
        request(path="/\xe9"),
        request(method="GARBAGE"),
        request().replace(b"HTTP/1.1", b"HTTP/9.9"),
        request().replace(b"\r\n", b"\n"),
        b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    ids=lambda data: repr(data[:70]),
)
def test_what_is_not_http_is_refused_by_the_server_itself(
    wire: Wire, server: Server, assert_good: Callable[[Reply], None], data: bytes
) -> None:
    reply = wire.ask(data)
    assert (reply.status, reply.body) == (400, b"Invalid HTTP request received.")
    assert wire.is_closed()
    with Wire(server) as another:
        assert_good(another.ask(request()))


def test_pipelined_requests_are_answered_in_order(wire: Wire, assert_good: Callable[[Reply], None]) -> None:
    wire.send(b"".join(request(GOOD if i % 2 else b"[]", headers={"X-Request-ID": str(i)}) for i in range(40)))
    for i in range(40):
        reply = wire.reply()
        assert_good(reply) if i % 2 else assert_refused(reply, 400, "body_not_an_object", {})
        assert reply.headers["X-Request-ID"] == str(i)


def test_a_body_sent_with_an_upgrade_is_refused_and_never_taken_for_a_request(wire: Wire) -> None:
    smuggled = head("GET", "/health")
    upgrade = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    wire.send(head(headers={**upgrade, "Content-Length": str(len(smuggled))}))
    assert_refused(wire.reply(), 400, "header_invalid", {"header": "Upgrade"})
    wire.send(smuggled)
    assert wire.is_closed()


def test_an_upgrade_without_a_body_is_ignored(wire: Wire, assert_good: Callable[[Reply], None]) -> None:
    assert wire.ask(head("GET", "/health", {"Connection": "Upgrade", "Upgrade": "h2c"})).json["status"] == "healthy"
    assert_good(wire.ask(request()))


@pytest.mark.parametrize(("path", "status"), [("/predict", 405), ("/health", 405), ("/livez", 405), ("/nothing", 404)])
def test_a_websocket_is_refused_like_any_other_method(wire: Wire, path: str, status: int) -> None:
    upgrade = {"Upgrade": "websocket", "Connection": "Upgrade"}
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    reply = wire.ask(head("GET", path, {**upgrade, **key}))
    assert_refused(reply, status, "not_found" if status == 404 else "method_not_allowed")
    assert wire.is_closed()


def test_clients_that_hang_up_leave_nothing_behind(server: Server, assert_good: Callable[[Reply], None]) -> None:
    before = open_connections(server)
    for sent in b"", head(headers={"Content-Length": "500"}), chunked(GOOD), request(), request()[:50]:
        for _ in range(10):
            with Wire(server) as leaver:
                leaver.send(sent)
    with Wire(server) as stayer:
        assert open_connections(server) > before
        assert_good(stayer.ask(request()))
    wait_until(lambda: open_connections(server) <= before, "the end of every connection")


def test_of_more_callers_than_are_worked_on_at_once_each_is_answered(
    server: Server, assert_good: Callable[[Reply], None]
) -> None:
    callers = 3 * max(door.INSIDE)
    patient = request(headers={"X-Timeout-Ms": str(1000 * PATIENCE_S)})
    answers = asyncio.run(client.ask_all(int(server.url.rpartition(":")[2]), [patient] * 2 * callers, at_once=callers))
    assert {answer.status for answer in answers} == {200}
    with Wire(server) as wire:
        assert_good(wire.ask(request()))


def open_connections(server: Server) -> int:
    """Connections that the service's processes hold, closed ones that nobody let go of among them."""
    processes = [psutil.Process(server.process.pid), *psutil.Process(server.process.pid).children(recursive=True)]
    return sum(connection.raddr != () for process in processes for connection in process.net_connections("tcp4"))


def test_other_requests_are_answered_beside_bodies_at_the_limit(server: Server) -> None:
    heavy = [
        b'{"features": [' + b"[]," * (LIMIT_BYTES // 3 - 10) + b"[]",
        b'{"x": [' + b"{}," * (LIMIT_BYTES // 3 - 10) + b'{}], "features": [[NaN]]}',
        with_cell("9" * (LIMIT_BYTES - 1000)),
        features(*[ROW] * 9_999, [*ROW[:-1], "x"]),
    ]
    with Wire(server) as sender, Wire(server) as prober:
        for body in heavy:
            sender.send(request(body, headers={"X-Timeout-Ms": "30000"}))
            for _ in range(30):
                assert prober.ask(head("GET", "/livez")).status == 200
            assert sender.reply().status in (400, 413)


# Not ready, and faults of our own


@pytest.fixture(scope="module")
def not_ready(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose only version has a damaged file."""
    damaged = tmp_path_factory.mktemp("damaged")
    shutil.copytree(home / "models", damaged / "models")
    for file in damaged.glob("models/fraud/*/contract.json"):
        file.write_bytes(file.read_bytes() + b" ")
    with serving(damaged, damaged / "log") as running:
        yield running


@pytest.mark.parametrize("data", [request(), head("GET", "/health"), head("GET", "/readyz")], ids=repr)
def test_without_a_version_the_refusal_says_so_and_when_to_come_back(not_ready: Server, data: bytes) -> None:
    with Wire(not_ready) as wire:
        assert_refused(wire.ask(data), 503, "not_ready")
        assert wire.ask(head("GET", "/livez")).status == 200
        assert_refused(wire.ask(request(path="/nothing")), 404, "not_found")
        assert_refused(wire.ask(head("GET")), 405, "method_not_allowed")
        assert wire.ask(head("GET", "/docs.json")).json["paths"]["/predict"]


def test_the_reason_names_the_file_that_is_damaged(not_ready: Server) -> None:
    with Wire(not_ready) as wire:
        assert "contract.json" in wire.ask(head("GET", "/health")).json["reason"]


def answered(rest: Rest, *messages: dict[str, Any], headers: list[tuple[bytes, bytes]]) -> list[Any]:
    """What goes out for a POST /predict with these messages, without a server around."""
    incoming, outgoing = iter(messages), []

    async def receive() -> Any:
        return next(incoming)

    async def send(message: Any) -> None:
        outgoing.append(message)

    asyncio.run(rest({"type": "http", "method": "POST", "path": "/predict", "headers": headers}, receive, send))
    return outgoing


async def nowhere(*args: Any) -> None:
    raise AssertionError("handed on")


def alone(deployment: Deployment, metrics: Metrics) -> Rest:
    """The application without BentoML's behind it."""
    return Rest(nowhere, deployment=deployment, settings=Settings(), metrics=metrics, spans=None)


def alone_with_a_version(metrics: Metrics) -> Rest:
    deployment = Deployment(Settings(model=tiny.saved().tag), metrics)
    deployment.start()
    return alone(deployment, metrics)


def test_a_client_that_has_gone_is_answered_all_the_same_so_that_metrics_count_it() -> None:
    service = alone_with_a_version(Metrics(CollectorRegistry()))
    start, *_ = answered(service, {"type": "http.disconnect"}, headers=[(b"content-length", b"5")])
    assert start["status"] == 499


def test_a_client_that_hangs_up_after_its_body_is_not_counted_as_answered() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    service = alone_with_a_version(metrics)
    body = b'{"features": [[0.5, 1]]}'
    messages = {"type": "http.request", "body": body}, {"type": "http.disconnect"}
    start, *_ = answered(service, *messages, headers=[(b"content-length", str(len(body)).encode())])
    assert start["status"] == 499
    metrics.flush()
    assert registry.get_sample_value("causeway_requests_total", {"endpoint": "/predict", "status": "499"}) == 1


def test_a_fault_of_ours_tells_its_cause_to_the_log_only(capsys: pytest.CaptureFixture[str]) -> None:
    broken = alone(None, Metrics(CollectorRegistry()))  # type: ignore[arg-type]
    message = {"type": "http.request"}
    start, body = answered(broken, message, headers=[(b"x-request-id", b"r-1"), (b"content-length", b"0")])
    assert start["status"] == 500
    assert json.loads(body["body"]) == errors.InternalError().body("r-1")
    assert "AttributeError" not in str(body)
    logged = capsys.readouterr()
    assert "internal_error" in logged.out + logged.err
    assert "r-1" in logged.out + logged.err


# Thousands of them


json_values = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.sampled_from([CANARY, *NAMES]),
        st.text(max_size=5),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3) | st.sampled_from(NAMES), inner),
    max_leaves=8,
)


@st.composite
def mutated_objects(draw: st.DrawFn) -> bytes:
    """A good body in either form, with something else in a few places of its structure."""
    by_name = draw(st.booleans())
    rows: list[Any] = [dict(BY_NAME) if by_name else list(ROW) for _ in range(draw(st.integers(0, 3)))]
    value: dict[str, Any] = {"rows" if by_name else "features": rows}
    for _ in range(draw(st.integers(1, 3))):
        target: Any = draw(st.sampled_from([value, rows, *rows]))
        if isinstance(target, list):
            start = draw(st.integers(0, len(target)))
            target[start : start + draw(st.integers(0, 1))] = draw(st.lists(json_values, max_size=1))
        elif isinstance(target, dict):
            name = draw(st.sampled_from([*target, "features", "rows", CANARY]))
            target.pop(name, None)
            if draw(st.booleans()):
                target[draw(st.sampled_from([name, name.lower(), name + "_"]))] = draw(json_values)
    return json.dumps(value, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


@st.composite
def mutated_bytes(draw: st.DrawFn) -> bytes:
    """A good body with a few bytes replaced, left out or doubled."""
    body = bytearray(draw(st.sampled_from([GOOD, named(BY_NAME), features(ROW, ROW)])))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        replaced = st.binary(max_size=3) | st.sampled_from(
            [b",", b"[", b"]", b"{", b"}", b'"', b"NaN", b"1e999", b"null"]
        )
        body[start : start + draw(st.integers(0, 3))] = draw(replaced)
    return bytes(body)


header_text = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=20)
headers = st.fixed_dictionaries(
    {},
    optional={
        "X-Timeout-Ms": header_text
        | st.sampled_from(["1", "5000", "0.001", "-0", "1e9", "٣".encode().decode("latin-1")]),
        "X-Request-ID": header_text,
        "X-Routing-Key": header_text,
        "Content-Type": header_text
        | st.sampled_from(
            ["application/json", "text/plain", "application/json;charset=utf-8", "application/vnd.bentoml+pickle"]
        ),
        "Content-Encoding": st.sampled_from(["gzip", "", "identity"]),
        "Accept": header_text,
        "Expect": st.just("100-continue"),
        "X-" + CANARY: st.just(CANARY),
    },
)


cells = st.builds(
    with_cell,
    st.floats().map(json.dumps)
    | json_values.map(json.dumps)
    | st.sampled_from(["1e999", "-1", "0.5", "1e7", "9" * 400]),
    st.integers(0, len(ROW) - 1),
)
hostile_bodies = st.one_of(
    mutated_objects(), cells, mutated_bytes(), st.binary(max_size=50), json_values.map(json.dumps).map(str.encode)
)


one_in_four = st.sampled_from([False, False, False, True])


@st.composite
def hostile_requests(draw: st.DrawFn) -> bytes:
    body = draw(hostile_bodies)
    fields = draw(headers) if draw(one_in_four) else {}
    if draw(one_in_four):
        cuts = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
        pieces = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True) if a < b]
        return chunked(*pieces, b"", headers=fields)
    if not draw(one_in_four):
        return request(body, headers=fields)
    method = draw(st.sampled_from(["POST", "POST", "GET", "PUT", "OPTIONS"]))
    path = draw(st.sampled_from(["/predict", "/predict?a", "/", "/health", f"/{CANARY}", "/predict/"]))
    return request(body, method=method, path=path, headers=fields)


@pytest.fixture(scope="module")
def connections(server: Server) -> Iterator[Connections]:
    opened = Connections(server)
    yield opened
    opened.close()


class Connections:
    """A few keep-alive connections for hostile requests, and one for good ones."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.good = Wire(server)
        self.hostile = [Wire(server) for _ in range(4)]
        self.random = random.Random(0)

    def choose(self) -> Wire:
        return self.random.choice(self.hostile)

    def reopen(self, wire: Wire) -> None:
        wire.close()
        self.hostile[self.hostile.index(wire)] = Wire(self.server)

    def close(self) -> None:
        for wire in [self.good, *self.hostile]:
            wire.close()


@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=hostile_requests())
def test_hostile_requests_are_refused_and_a_good_one_beside_them_is_answered(
    connections: Connections, assert_good: Callable[[Reply], None], data: bytes
) -> None:
    wire = connections.choose()
    wire.send(data)
    assert_good(connections.good.ask(request()))
    reply = wire.reply()
    while reply.status == 100:
        reply = wire.reply()
    if reply.headers["Connection"] == "close":
        assert wire.is_closed()
        connections.reopen(wire)
    event(str(reply.status) if reply.status == 200 else reply.json["code"])
    if reply.status == 200:
        assert reply.headers["Content-Type"].startswith("text/html") or "error" not in reply.json
        return
    assert 400 <= reply.status < 500 or reply.status == 504, reply
    assert_refused(reply, reply.status, reply.json["code"])
    assert CANARY not in reply.json["error"]
    facts = {name: value for name, value in reply.json.items() if name not in ("error", "request_id")}
    assert CANARY not in json.dumps(facts)
