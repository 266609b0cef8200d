"""Where a request belongs among those of other services: W3C Trace Context, and OpenTelemetry's spans of it.

A caller's `traceparent` comes back in the answer, and its trace id stands in log lines and in the prediction log. Spans
are made where OpenTelemetry's own variables say where to: OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT), or
OTEL_TRACES_EXPORTER=console. Its other variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, OTEL_EXPORTER_OTLP_HEADERS,
OTEL_SDK_DISABLED, ...) mean what they mean everywhere.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from typing import NamedTuple

from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode, format_span_id, format_trace_id
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from causeway.errors import InvalidSetting

NAME = "causeway"
"""The service's name in spans, where OTEL_SERVICE_NAME gives no other."""

FLUSH_S = 2.0
"""How long spans that wait are sent at the end."""

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_W3C = TraceContextTextMapPropagator()


class Trace(NamedTuple):
    """The trace of a request."""

    trace_id: str
    """32 hexadecimal digits."""
    parent: bytes
    """The `traceparent` header of the answer: the caller's own, or that of our span."""


def parse(traceparent: bytes) -> Trace | None:
    """The caller's trace; None where the header is no traceparent, which W3C says to take for none.

    Source: W3C Trace Context, section 3.2.
    """
    found = _PARENT.fullmatch(traceparent)
    # Version 00 ends with the flags; what later ones add is not known yet.
    if found is None or (found[2] is not None and traceparent.startswith(b"00")):
        return None
    return Trace(found[1].decode(), traceparent)


class Spans:
    """Makes a span of each request, and sends them in the background."""

    def __init__(self, exporter: SpanExporter) -> None:
        resource = Resource({"service.name": NAME}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(resource=Resource.create().merge(resource))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer(NAME)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Spans | None:
        """As OpenTelemetry's variables say; None where they do not ask for spans. Raises `InvalidSetting`."""
        exporter = environ.get("OTEL_TRACES_EXPORTER", "otlp")
        if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or exporter == "none":
            return None
        if exporter == "console":
            return cls(ConsoleSpanExporter())
        if exporter != "otlp":
            raise InvalidSetting("OTEL_TRACES_EXPORTER", exporter, "one of otlp, console, none")
        if not any(environ.get(variable) for variable in _ENDPOINTS):
            return None
        for variable in _PROTOCOLS:
            if environ.get(variable, "http/protobuf") != "http/protobuf":
                raise InvalidSetting(variable, environ[variable], "http/protobuf")
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # takes 0.1 s to import

        return cls(OTLPSpanExporter())

    def begin(self, method: str, route: str, headers: Mapping[bytes, bytes], request_id: str) -> Span:
        """A span that has begun, as a child of the caller's where `headers` name one."""
        carrier = {name: headers[name.encode()].decode("latin-1") for name in _W3C.fields if name.encode() in headers}
        attributes = {"http.request.method": method, "http.route": route, "causeway.request_id": request_id}
        return self._tracer.start_span(
            f"{method} {route}", _W3C.extract(carrier), SpanKind.SERVER, attributes, start_time=time.time_ns()
        )

    def end(self, span: Span, status: int, variant: tuple[str, str] | None) -> None:
        """Ends it with the answer's status, and with the role and the version that it was given to."""
        span.set_attribute("http.response.status_code", status)
        if variant is not None:
            span.set_attributes({"causeway.variant": variant[0], "causeway.model_version": variant[1]})
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        span.end()

    def close(self) -> None:
        """Sends what waits."""
        self._provider.force_flush(int(FLUSH_S * 1000))
        self._provider.shutdown()


def of(span: Span) -> Trace:
    """The trace that a span is in, to be told to the caller."""
    context = span.get_span_context()
    trace_id = format_trace_id(context.trace_id)
    return Trace(trace_id, f"00-{trace_id}-{format_span_id(context.span_id)}-{int(context.trace_flags):02x}".encode())
