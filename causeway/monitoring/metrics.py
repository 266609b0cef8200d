"""Prometheus metrics: every name, help text and label in one place.

Labels come from closed sets: endpoints are those that exist, and every path that does not exist is `other`. In a
worker of `bentoml serve` the values lie in files that all workers share: /metrics of any worker counts for all of them.

The tags of versions are a closed set too: those that an operator gave a role.

Requests are noted in memory, which costs a fraction of a microsecond, and counted by `flush`: before this worker's
/metrics answers, and every `FLUSH_S`.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from causeway.contract import Array, Output
from causeway.version import ModelVersion

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

VARIANT_BUCKETS_S = tuple(round(0.0001 * 10 ** (step / 8), 7) for step in range(44))
"""From 0.1 ms to 24 s in steps of a third: fine enough to compare the tails of two variants."""

SCORE_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
"""Of a prediction's place between the contract's minimum and maximum; probabilities gather at both ends."""

DIFFERENCE_BUCKETS = (0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

FLUSH_S = 0.25
"""How often what was noted is counted: other workers' /metrics, and a kill -9, miss no more than this."""


Labels = tuple[str, str]
"""A variant's role and its version's tag."""


class Metrics:
    """The metrics of one process, kept in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry
        self._requests = Counter(
            "causeway_requests_total",
            "Requests that were answered, by endpoint and HTTP status (499: the client hung up).",
            ("endpoint", "status"),
            registry=registry,
        )
        self._duration = Observations(
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
        variant = ("variant", "model_version")
        self._variant_requests = Counter(
            "causeway_variant_requests_total",
            "Requests that were given to a variant, by its version and the HTTP status of the answer.",
            (*variant, "status"),
            registry=registry,
        )
        self._variant_duration = Observations(
            "causeway_variant_duration_seconds",
            "Seconds from a request's headers to its whole answer, where that was 200.",
            variant,
            buckets=VARIANT_BUCKETS_S,
            registry=registry,
        )
        self._scores = Observations(
            "causeway_scores",
            "Predictions of a version, as their place between the contract's minimum (0) and maximum (1).",
            ("model_version",),
            buckets=SCORE_BUCKETS,
            registry=registry,
        )
        self._not_finite = Counter(
            "causeway_scores_not_finite_total",
            "Predictions of a version that were NaN or infinite; never returned.",
            ("model_version",),
            registry=registry,
        )
        self._shadow_rows = Counter(
            "causeway_shadow_rows_total",
            "Rows for the shadow: scored, dropped because there was no time, or failed.",
            ("model_version", "result"),
            registry=registry,
        )
        self._shadow_differences = Observations(
            "causeway_shadow_differences",
            "How far the shadow's predictions were from those that were returned, absolute.",
            ("model_version",),
            buckets=DIFFERENCE_BUCKETS,
            registry=registry,
        )
        self._revision = Gauge(
            "causeway_state_revision",
            "Revision of the deployment state that a worker serves, by its process id.",
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._followed = Gauge(
            "causeway_state_followed",
            "1 where a worker serves what the state file says, 0 where it cannot, by its process id.",
            registry=registry,
            multiprocess_mode="liveall",
        )
        self._deployed = Gauge(
            "causeway_deployed",
            "Percent of the requests that a version gets in its role (the shadow: 0), absent before it had one.",
            variant,
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._waiting_scores: dict[str, tuple[Output, deque[Array]]] = {}
        self._seconds: defaultdict[tuple[str, int, Labels | None], list[float]] = defaultdict(list)
        self._noted: Tally[tuple[Counter, str]] = Tally()
        self._n_rows = 0
        self._known: set[Labels] = set()

    def answered(self, endpoint: str, status: int, seconds: float, variant: Labels | None = None) -> None:
        """Notes one answered request, and which variant it was given to."""
        self._seconds[endpoint, status, variant].append(seconds)

    def refused(self, code: str) -> None:
        """Notes one request that got no prediction."""
        self._noted[self._refusals, code] += 1

    def batch(self, n_rows: int, released: str) -> None:
        """Notes one call of the engine."""
        self._noted[self._batches, released] += 1
        self._n_rows += n_rows

    def scored(self, version: ModelVersion, predictions: Array) -> None:
        """Notes predictions (n_rows, output width) of a version; in any thread."""
        waiting = self._waiting_scores.get(version.tag)
        if waiting is None:
            waiting = self._waiting_scores.setdefault(version.tag, (version.contract.output, deque()))
        waiting[1].append(predictions)

    def shadowed(self, version: ModelVersion, result: str, n_rows: int) -> None:
        """Counts rows for the shadow: `scored`, `dropped` or `failed`; in any thread."""
        self._shadow_rows.labels(version.tag, result).inc(n_rows)

    def differed(self, version: ModelVersion, differences: Array) -> None:
        """Counts absolute differences (n_rows, output width) of the shadow's predictions; in any thread."""
        self._shadow_differences.labels(version.tag).observe_all(differences[np.isfinite(differences)])

    def deployed(self, revision: int, shares: Mapping[Labels, float], *, is_followed: bool) -> None:
        """Sets what this worker serves: by role and tag the percent of the requests."""
        self._revision.set(revision)
        self._followed.set(is_followed)
        for labels in self._known - shares.keys():
            self._deployed.labels(*labels).set(0)
        for labels, share in shares.items():
            self._deployed.labels(*labels).set(share)
        self._known |= shares.keys()

    def poisoned(self) -> None:
        """Counts one request on whose rows the engine failed."""
        self._poisoned.inc()

    def looked_up(self, result: str) -> None:
        """Notes a look into the response cache; `hit` or `miss`."""
        self._noted[self._cache, result] += 1

    def flush(self) -> None:
        """Counts what was noted."""
        answered, self._seconds = self._seconds, defaultdict(list)
        for (endpoint, status, variant), seconds in answered.items():
            self._requests.labels(endpoint, str(status)).inc(len(seconds))
            self._duration.labels(endpoint).observe_all(seconds)
            if variant is not None:
                self._variant_requests.labels(*variant, str(status)).inc(len(seconds))
                if status == 200:
                    self._variant_duration.labels(*variant).observe_all(seconds)
        for tag, (output, waiting) in list(self._waiting_scores.items()):  # others may add to it meanwhile
            if waiting:
                self._count_scores(tag, output, waiting)
        noted, self._noted = self._noted, Tally()
        for (counter, label), n in noted.items():
            counter.labels(label).inc(n)
        self._rows.inc(self._n_rows)
        self._n_rows = 0

    def exposition(self) -> str:
        """What /metrics says of all workers of this server, up to `FLUSH_S` ago."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry).decode()

    def _count_scores(self, tag: str, output: Output, waiting: deque[Array]) -> None:
        arrays = [waiting.popleft().ravel() for _ in range(len(waiting))]  # others may append meanwhile
        scores = np.concatenate(arrays)
        finite = scores[np.isfinite(scores)].astype(np.float64)
        span = output.maximum - output.minimum or 1.0
        self._scores.labels(tag).observe_all((finite - output.minimum) / span)
        if len(finite) < len(scores):
            self._not_finite.labels(tag).inc(len(scores) - len(finite))


class Observations(Histogram):
    """A histogram that takes many observations at once."""

    def observe_all(self, values: Sequence[float] | NDArray[np.floating[Any]]) -> None:
        """The same as `observe` of each."""
        places = np.searchsorted(self._upper_bounds, values)  # the first bound that is not smaller
        for place, n in enumerate(np.bincount(places)):
            if n:
                self._buckets[place].inc(int(n))
        self._sum.inc(float(np.sum(values)))
