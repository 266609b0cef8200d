"""Traces go through: from the caller into the answer, the log and spans."""

import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span

from causeway import tracing
from causeway.errors import InvalidSetting
from tests.conftest import PATIENCE_S, Server, serving

ROW = [120.5, 0, 1, 2, 95.2, 14, 61.7, 58, 60.1, 1, 0, 6, 0, 27, 0.04]
TRACE_ID, SPAN_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE_ID}-{SPAN_ID}-01"


@pytest.mark.parametrize("header", [PARENT, PARENT[:-2] + "00", "cc" + PARENT[2:], f"cc{PARENT[2:]}-what-comes-later"])
def test_a_traceparent_is_taken_over(header: str) -> None:
    assert tracing.parse(header.encode()) == (TRACE_ID, header.encode())


@pytest.mark.parametrize(
    "header",
    [
        "",
        PARENT.upper(),
        PARENT[1:],
        f"ff{PARENT[2:]}",
        f"{PARENT}-more",
        f"00-{'0' * 32}-{SPAN_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"00-{TRACE_ID}-{SPAN_ID}",
        f" {PARENT}",
        f"{PARENT}\r\nset-cookie: a=b",
    ],
)
def test_what_is_no_traceparent_is_taken_for_none(header: str) -> None:
    assert tracing.parse(header.encode()) is None


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"OTEL_SERVICE_NAME": "scores"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_a_place_for_them_there_are_no_spans(environ: dict[str, str]) -> None:
    assert tracing.Spans.from_env(environ) is None


@pytest.mark.parametrize(
    ("variable", "value"), [("OTEL_TRACES_EXPORTER", "jaeger"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]
)
def test_an_exporter_that_is_not_there_is_refused(variable: str, value: str) -> None:
    with pytest.raises(InvalidSetting, match=f"{variable}='{value}'"):
        tracing.Spans.from_env({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318", variable: value})


def test_the_callers_trace_is_in_the_answer_and_nobody_elses(server: Server) -> None:
    url = f"{server.url}/predict"
    answer = httpx.post(url, json={"features": [ROW]}, headers={"traceparent": PARENT})
    assert (answer.status_code, answer.headers["traceparent"]) == (200, PARENT)
    refused = httpx.post(url, json={"features": []}, headers={"traceparent": PARENT})
    assert (refused.status_code, refused.headers["traceparent"]) == (400, PARENT)
    for headers in ({}, {"traceparent": "nonsense"}):
        answer = httpx.post(url, json={"features": [ROW]}, headers=headers)
        assert answer.status_code == 200
        assert "traceparent" not in answer.headers


class Collector:
    """Takes spans over HTTP, as an OpenTelemetry collector does."""

    def __init__(self) -> None:
        self.received: queue.Queue[ResourceSpans] = queue.Queue()
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                if self.path == "/v1/traces" and self.headers["content-type"] == "application/x-protobuf":
                    for each in ExportTraceServiceRequest.FromString(body).resource_spans:
                        received.put(each)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def spans(self, n: int) -> list[tuple[str, Span]]:
        """The next `n` spans, with the name of their service."""
        found: list[tuple[str, Span]] = []
        while len(found) < n:
            resource = self.received.get(timeout=PATIENCE_S)
            service = next(a.value.string_value for a in resource.resource.attributes if a.key == "service.name")
            found += [(service, span) for scope in resource.scope_spans for span in scope.spans]
        return found


def attribute(span: Span, name: str) -> str | int:
    """The value of an attribute."""
    value = next(each.value for each in span.attributes if each.key == name)
    return value.string_value or value.int_value


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_a_collector_gets_a_span_of_each_request_in_the_callers_trace(
    collector: Collector, home: Path, tmp_path: Path
) -> None:
    host, port = collector.server.server_address[:2]
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{host}:{port}", "OTEL_BSP_SCHEDULE_DELAY": "100"}
    with serving(home, tmp_path / "log", **variables) as server, httpx.Client(base_url=server.url) as client:
        headers = {"traceparent": PARENT, "x-request-id": "one"}
        answer = client.post("/predict", json={"features": [ROW]}, headers=headers)
        refused = client.post("/predict", json={"features": [[*ROW[:-1]]]})
        assert client.post("/predict", json={}, headers={"x-request-id": ""}).status_code == 400  # has no span
        client.get("/health")
        spans = collector.spans(2)
    assert {service for service, _ in spans} == {"causeway"}
    by_status = {attribute(span, "http.response.status_code"): span for _, span in spans}
    assert by_status.keys() == {200, 400}
    span = by_status[200]
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE_ID, SPAN_ID)
    assert answer.headers["traceparent"] == f"00-{TRACE_ID}-{span.span_id.hex()}-01"
    assert (span.name, span.kind) == ("POST /predict", Span.SPAN_KIND_SERVER)
    assert attribute(span, "causeway.request_id") == "one"
    assert attribute(span, "causeway.variant") == "champion"
    assert refused.headers["traceparent"].split("-")[1] == by_status[400].trace_id.hex() != TRACE_ID
