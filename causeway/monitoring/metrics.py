"""Prometheus metrics: every name, help text and label in one place.

Labels come from closed sets: endpoints are those that exist, and every path that does not exist is `other`. In a
worker of `bentoml serve` the values lie in files that all workers share: /metrics of any worker counts for all of them.
"""

from __future__ import annotations

from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one process, kept in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        requests = Counter(
            "causeway_requests_total",
            "Requests that were answered, by endpoint and HTTP status (499: the client hung up).",
            ("endpoint", "status"),
            registry=registry,
        )
        duration = Histogram(
            "causeway_request_duration_seconds",
            "Seconds from a request's headers to its whole answer.",
            ("endpoint",),
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        # Looking a child up by its labels costs more than counting with it.
        self._requests = cache(lambda endpoint, status: requests.labels(endpoint, str(status)))
        self._duration = cache(lambda endpoint: duration.labels(endpoint))

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Counts one answered request."""
        self._requests(endpoint, status).inc()
        self._duration(endpoint).observe(seconds)
