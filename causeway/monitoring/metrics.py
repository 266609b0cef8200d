"""What a worker counts, as Prometheus metrics: every name, help text and label; the keeper's are in `model_metrics`.

Labels come from closed sets: endpoints are those that exist, and every path that does not exist is `other`. In a
worker of `bentoml serve` the values lie in files that all workers share: /metrics of any worker counts for all of them.

The tags of versions are a closed set too: those that an operator gave a role; and so are the features of contracts.

Requests are noted in memory, which costs a fraction of a microsecond, and counted by `flush`: before this worker's
/metrics answers, and every `FLUSH_S`.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from causeway.batching import RELEASED
from causeway.contract import Array, Output
from causeway.monitoring.process import Usage
from causeway.version import ModelVersion

LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

VARIANT_BUCKETS_S = (0.0001, *(float(f"{10 ** (step / 48):.4g}") for step in range(-178, 15)), 2.5, 5.0, 10.0, 30.0)
"""Each bound from 0.2 ms to 2 s is 4.9 % above the one before, so that a percentile is known within 5 %: it and its
estimate by PromQL's histogram_quantile lie between the same two. 0.001, 0.01, 0.1 and 1 are among them."""

STEP_BUCKETS_S = tuple(round(0.00001 * 2**step, 5) for step in range(20))
"""From 10 us to 5 s, each twice the one before."""

BATCH_BUCKETS = tuple(2**step for step in range(15))

SCORE_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 0.95, 0.98, 0.99, 1.0)
"""Of a prediction's place between the contract's minimum and maximum; probabilities gather at both ends."""

DIFFERENCE_BUCKETS = (0.0001, 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)

FLUSH_S = 0.25
"""How often what was noted is counted: other workers' /metrics, and a kill -9, miss no more than this."""

PHASES = ("decode", "queue", "compute", "encode")

STATUSES = ("200", "500", "503", "504")
"""Of answers of /predict that alerts and judgements are about."""

FEEDBACK = ("stored", "repeated", "replaced", "unknown")

LEFT_OUT = ("sampled", "backlog", "disk", "unreadable")
"""Why the prediction log lacks rows: it took a sample, its backlog was full, or could not be written, or be read."""

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
        self._batch_rows = Observations(
            "causeway_batch_rows", "Rows in a call of the engine.", buckets=BATCH_BUCKETS, registry=registry
        )
        self._phase = Observations(
            "causeway_phase_seconds",
            "Where the time of answers 200 of /predict went: decode, queue, compute (of the whole batches), encode.",
            ("phase",),
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )
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
        self._created = Gauge(
            "causeway_model_created_timestamp_seconds",
            "When a version that has a role was made, in seconds since 1970.",
            ("model_version",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._engine = Gauge(
            "causeway_engine_workers",
            "Workers that run a version by this engine, on this device (cpu, or cuda:N).",
            ("model_version", "engine", "device"),
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._out_of_memory = Counter(
            "causeway_device_out_of_memory_total",
            "Batches that a device had no memory for, after which it gets half as many rows at once.",
            registry=registry,
        )
        self._device_lost = Counter(
            "causeway_device_lost_total",
            "Workers that ended because their device computed no more.",
            registry=registry,
        )
        self._in_flight = Gauge(
            "causeway_requests_in_flight",
            "Requests that are being answered.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._queued = Gauge(
            "causeway_queued_rows",
            "Rows that wait for the engine.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._lag = Observations(
            "causeway_event_loop_lag_seconds",
            "How late timers fire on a worker's event loop; up to 1 ms of it is the timers' own.",
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )
        self._pause = Observations(
            "causeway_gc_pause_seconds",
            "Seconds of a collection of garbage, by generation; nothing else runs meanwhile.",
            ("generation",),
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )
        self._usage = Usage("worker", registry)
        self._gpu_utilization = Gauge(
            "causeway_gpu_utilization_ratio",
            "Share of the time in which a GPU of this machine computed.",
            ("gpu",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._gpu_memory_used = Gauge(
            "causeway_gpu_memory_used_bytes",
            "Memory of a GPU that is used, by whomever.",
            ("gpu",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._gpu_memory = Gauge(
            "causeway_gpu_memory_bytes",
            "Memory of a GPU.",
            ("gpu",),
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._refused_values = Counter(
            "causeway_refused_values_total",
            "Values for which requests were refused, one a request, by feature: missing, out_of_range or not_a_number.",
            ("column", "reason"),
            registry=registry,
        )
        self._feedback = Counter(
            "causeway_feedback_total",
            "Requests whose labels came: stored, repeated, replaced by other ones, or unknown in the prediction log.",
            ("result",),
            registry=registry,
        )
        self._left_out = left_out_counter(registry)
        # Prometheus does not see a series grow that begins with 1.
        _begin(self._requests, (("/predict", status) for status in STATUSES))
        _begin(self._batches, ((released,) for released in RELEASED))
        _begin(self._cache, (("hit",), ("miss",)))
        _begin(self._feedback, ((result,) for result in FEEDBACK))
        _begin(self._pause, ((str(generation),) for generation in range(3)))
        self._asked: Callable[[], tuple[int, int]] = lambda: (0, 0)
        self._predicted: defaultdict[Labels, list[NDArray[np.float64]]] = defaultdict(list)
        self._released: defaultdict[str, list[int]] = defaultdict(list)
        self._lags: list[float] = []
        self._pauses: deque[tuple[int, float]] = deque()
        self._waiting_scores: dict[str, tuple[Output, deque[Array]]] = {}
        self._seconds: defaultdict[tuple[str, int, Labels | None], list[float]] = defaultdict(list)
        self._noted: Tally[tuple[Counter, *tuple[str, ...]]] = Tally()
        self._known: set[Labels] = set()
        self._engines: set[tuple[str, str, str]] = set()

    def watch(self, *, in_flight: Callable[[], int], queued_rows: Callable[[], int]) -> None:
        """From now on `flush` shows what these say: requests that are being answered, and rows that wait."""
        self._asked = lambda: (in_flight(), queued_rows())

    def answered(self, endpoint: str, status: int, seconds: float, variant: Labels | None = None) -> None:
        """Notes one answered request, and which variant it was given to."""
        self._seconds[endpoint, status, variant].append(seconds)

    def predicted(self, variants: Sequence[Labels], numbers: NDArray[np.float64]) -> None:
        """Notes requests to /predict that were answered with 200, by their variants.

        numbers: (n, 6), when each began (which is not looked at), and seconds: latency, then as `PHASES`.
        """
        if variants.count(variants[0]) == len(variants):
            self._predicted[variants[0]].append(numbers)
            return
        for labels in set(variants):
            self._predicted[labels].append(numbers[[variant == labels for variant in variants]])

    def refused(self, code: str) -> None:
        """Notes one request that got no prediction."""
        self._noted[self._refusals, code] += 1

    def batch(self, n_rows: int, released: str) -> None:
        """Notes one call of the engine."""
        self._released[released].append(n_rows)

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

    def deployed(
        self,
        revision: int,
        shares: Mapping[Labels, float],
        *,
        is_followed: bool,
        created: Mapping[str, float] | None = None,
        engines: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        """Sets what this worker serves: by role and tag the percent of the requests.

        created: by tag, when the version was made, in seconds since 1970. engines: by tag, its engine and its device.
        """
        self._revision.set(revision)
        self._followed.set(is_followed)
        for labels in self._known - shares.keys():
            self._deployed.labels(*labels).set(0)
        for labels, share in shares.items():
            self._deployed.labels(*labels).set(share)
        self._known |= shares.keys()
        for tag, timestamp in (created or {}).items():
            self._created.labels(tag).set(timestamp)
        running = {(tag, *engine) for tag, engine in (engines or {}).items()}
        for engine in self._engines | running:
            self._engine.labels(*engine).set(engine in running)
        self._engines |= running

    def ran_out_of_memory(self) -> None:
        """Counts a batch that a device had no memory for; in any thread."""
        self._out_of_memory.inc()

    def device_lost(self) -> None:
        """Counts that this worker ends because its device computes no more."""
        self._device_lost.inc()

    def poisoned(self) -> None:
        """Counts one request on whose rows the engine failed."""
        self._poisoned.inc()

    def looked_up(self, result: str) -> None:
        """Notes a look into the response cache; `hit` or `miss`."""
        self._noted[self._cache, result] += 1

    def refused_value(self, column: str, reason: str) -> None:
        """Notes a value of a contract's feature that was refused: `missing`, `out_of_range` or `not_a_number`."""
        self._noted[self._refused_values, column, reason] += 1

    def feedback(self, result: str, n: int = 1) -> None:
        """Notes requests whose labels came; one of `FEEDBACK`."""
        self._noted[self._feedback, result] += n

    def left_out(self, reason: str, n_rows: int = 1) -> None:
        """Counts rows that the prediction log left out, for one of `LEFT_OUT`; in any thread."""
        self._left_out.labels(reason).inc(n_rows)

    def lagged(self, seconds: float) -> None:
        """Notes how late a timer fired."""
        self._lags.append(seconds)

    def collected(self, generation: int, seconds: float) -> None:
        """Notes a pause of the garbage collector, which may come in any thread, at any time, locks being held."""
        self._pauses.append((generation, seconds))

    def gpu(self, index: int, utilization: float, used_bytes: float, total_bytes: float) -> None:
        """Sets how a GPU of this machine is used; `utilization` is a share of the time."""
        self._gpu_utilization.labels(index).set(utilization)
        self._gpu_memory_used.labels(index).set(used_bytes)
        self._gpu_memory.labels(index).set(total_bytes)

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
        self._flush_predicted()
        for tag, (output, waiting) in list(self._waiting_scores.items()):  # others may add to it meanwhile
            if waiting:
                self._count_scores(tag, output, waiting)
        noted, self._noted = self._noted, Tally()
        for (counter, *labels), n in noted.items():
            counter.labels(*labels).inc(n)
        batches, self._released = self._released, defaultdict(list)
        for released, n_rows in batches.items():
            self._batches.labels(released).inc(len(n_rows))
            self._batch_rows.observe_all(n_rows)
            self._rows.inc(sum(n_rows))
        self._flush_process()

    def exposition(self) -> str:
        """What /metrics says of all workers of this server, up to `FLUSH_S` ago."""
        registry = self._registry
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry).decode()

    def _flush_predicted(self) -> None:
        predicted, self._predicted = self._predicted, defaultdict(list)
        for variant, parts in predicted.items():
            _, latencies, *phases = np.concatenate(parts).T
            self._requests.labels("/predict", "200").inc(len(latencies))
            self._duration.labels("/predict").observe_all(latencies)
            self._variant_requests.labels(*variant, "200").inc(len(latencies))
            self._variant_duration.labels(*variant).observe_all(latencies)
            for name, seconds in zip(PHASES, phases, strict=True):
                self._phase.labels(name).observe_all(seconds)

    def _flush_process(self) -> None:
        lags, self._lags = self._lags, []
        self._lag.observe_all(lags)
        for generation, seconds in [self._pauses.popleft() for _ in range(len(self._pauses))]:
            self._pause.labels(generation).observe(seconds)
        in_flight, queued_rows = self._asked()
        self._in_flight.set(in_flight)
        self._queued.set(queued_rows)
        self._usage.note()

    def _count_scores(self, tag: str, output: Output, waiting: deque[Array]) -> None:
        arrays = [waiting.popleft().ravel() for _ in range(len(waiting))]  # others may append meanwhile
        scores = np.concatenate(arrays)
        finite = scores[np.isfinite(scores)].astype(np.float64)
        span = output.maximum - output.minimum or 1.0
        self._scores.labels(tag).observe_all((finite - output.minimum) / span)
        self._not_finite.labels(tag).inc(len(scores) - len(finite))


class Silent(Metrics):
    """Shows what is deployed, and notes nothing about requests: what the cost of noting is measured against."""

    def answered(self, *_: object, **__: object) -> None:
        """Notes nothing."""

    refused = batch = predicted = scored = looked_up = refused_value = feedback = lagged = collected = gpu = answered

    def flush(self) -> None:
        """There is nothing to count."""


def left_out_counter(registry: CollectorRegistry) -> Counter:
    """Counts rows that the prediction log left out, in a worker or in the keeper."""
    counter = Counter(
        "causeway_prediction_log_left_out_total",
        "Rows that the prediction log left out, by why: sampled, backlog, disk or unreadable.",
        ("reason",),
        registry=registry,
    )
    _begin(counter, ((reason,) for reason in LEFT_OUT))
    return counter


def _begin(metric: Counter | Histogram, labels: Iterable[tuple[str, ...]]) -> None:
    """Has these series begin with 0."""
    for values in labels:
        metric.labels(*values)


class Observations(Histogram):
    """A histogram that takes many observations at once."""

    def observe_all(self, values: Sequence[float] | NDArray[np.floating[Any]]) -> None:
        """The same as `observe` of each."""
        places = np.searchsorted(self._upper_bounds, values)  # the first bound that is not smaller
        for place, n in enumerate(np.bincount(places)):
            if n:
                self._buckets[place].inc(int(n))
        self._sum.inc(float(np.sum(values)))
