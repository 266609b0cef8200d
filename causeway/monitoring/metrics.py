"""Prometheus metrics: every name, help text and label in one place.

Labels come from closed sets: endpoints are those that exist, and every path that does not exist is `other`. In a
worker of `bentoml serve` the values lie in files that all workers share: /metrics of any worker counts for all of them.

Requests are noted in memory, which costs a fraction of a microsecond, and counted by `flush`: before this worker's
/metrics answers, and every `FLUSH_S`.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections import defaultdict

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

FLUSH_S = 0.25
"""How often what was noted is counted: other workers' /metrics, and a kill -9, miss no more than this."""


class Metrics:
    """The metrics of one process, kept in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "causeway_requests_total",
            "Requests that were answered, by endpoint and HTTP status (499: the client hung up).",
            ("endpoint", "status"),
            registry=registry,
        )
        self._duration = Durations(
            "causeway_request_duration_seconds",
            "Seconds from a request's headers to its whole answer.",
            ("endpoint",),
            buckets=LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._refusals = Counter(
            "causeway_refusals_total", "Requests that got no prediction, by code.", ("code",), registry=registry
        )
        self._batches = Counter(
            "causeway_batches_total",
            "Calls of the engine, by why the batch was not larger: idle (the engine took what was there), drained (it "
            "took all that had gathered), full, or deadline.",
            ("released",),
            registry=registry,
        )
        self._rows = Counter("causeway_rows_total", "Rows that the engine computed.", registry=registry)
        self._poisoned = Counter(
            "causeway_poisoned_requests_total", "Requests on whose rows the engine failed.", registry=registry
        )
        self._cache = Counter(
            "causeway_cache_requests_total",
            "Looks into the response cache: hit or miss.",
            ("result",),
            registry=registry,
        )
        self._seconds: defaultdict[tuple[str, int], list[float]] = defaultdict(list)
        self._noted: Tally[tuple[Counter, str]] = Tally()
        self._n_rows = 0

    def answered(self, endpoint: str, status: int, seconds: float) -> None:
        """Notes one answered request."""
        self._seconds[endpoint, status].append(seconds)

    def refused(self, code: str) -> None:
        """Notes one request that got no prediction."""
        self._noted[self._refusals, code] += 1

    def batch(self, n_rows: int, released: str) -> None:
        """Notes one call of the engine."""
        self._noted[self._batches, released] += 1
        self._n_rows += n_rows

    def poisoned(self) -> None:
        """Counts one request on whose rows the engine failed."""
        self._poisoned.inc()

    def looked_up(self, result: str) -> None:
        """Notes a look into the response cache; `hit` or `miss`."""
        self._noted[self._cache, result] += 1

    def flush(self) -> None:
        """Counts what was noted."""
        answered, self._seconds = self._seconds, defaultdict(list)
        for (endpoint, status), seconds in answered.items():
            self._requests.labels(endpoint, str(status)).inc(len(seconds))
            self._duration.labels(endpoint).observe_all(seconds)
        noted, self._noted = self._noted, Tally()
        for (counter, label), n in noted.items():
            counter.labels(label).inc(n)
        self._rows.inc(self._n_rows)
        self._n_rows = 0


class Durations(Histogram):
    """A histogram that takes many observations at once."""

    def observe_all(self, seconds: list[float]) -> None:
        """The same as `observe` of each."""
        places = np.searchsorted(self._upper_bounds, seconds)  # the first bound that is not smaller
        for place, n in enumerate(np.bincount(places)):
            if n:
                self._buckets[place].inc(int(n))
        self._sum.inc(sum(seconds))
