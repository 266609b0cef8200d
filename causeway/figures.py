"""What /metrics says about each version, as numbers to compare: counts, and histograms of latencies and scores."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from prometheus_client.parser import text_string_to_metric_families

from causeway.monitoring.metrics import SCORE_BUCKETS, VARIANT_BUCKETS_S

Counts = NDArray[np.float64]


@dataclass(frozen=True)
class Figures:
    """Of one version, since its server started, or between two looks (`since`)."""

    by_status: Mapping[int, float] = field(default_factory=dict)
    """Requests by HTTP status."""
    latencies: Counts = field(default_factory=lambda: np.zeros(len(VARIANT_BUCKETS_S) + 1))
    """(n + 1,): answers by the n `VARIANT_BUCKETS_S`, each up to its bound; the last is without one."""
    scores: Counts = field(default_factory=lambda: np.zeros(len(SCORE_BUCKETS) + 1))
    """(17 + 1,): predictions by `SCORE_BUCKETS`."""
    not_finite: float = 0.0
    """Predictions that were NaN or infinite."""
    canary_share: float = 0.0
    """Percent of the requests that it has as canary, at the time of the later look."""

    def since(self, before: Figures) -> Figures:
        """What was added; less than nothing where the counters began again."""
        statuses = self.by_status.keys() | before.by_status.keys()
        return Figures(
            {status: self.by_status.get(status, 0.0) - before.by_status.get(status, 0.0) for status in statuses},
            self.latencies - before.latencies,
            self.scores - before.scores,
            self.not_finite - before.not_finite,
            self.canary_share,
        )

    @property
    def requests(self) -> float:
        """All that a client waited for: without those of clients that hung up."""
        return sum(n for status, n in self.by_status.items() if status != 499)

    @property
    def errors(self) -> float:
        """Answers that are the version's fault: 500, and 504 for what took too long."""
        return self.by_status.get(500, 0.0) + self.by_status.get(504, 0.0)

    @property
    def refusals(self) -> float:
        """Answers 503."""
        return self.by_status.get(503, 0.0)

    def p99_s(self) -> float:
        """The 99th percentile of the latency, as the bound of its bucket; NaN without answers."""
        if not self.latencies.sum():
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self.latencies), 0.99 * self.latencies.sum()))
        return (*VARIANT_BUCKETS_S, float("inf"))[place]

    def slower_than(self, seconds: float) -> float:
        """Answers that took longer than `seconds`, a bound of `VARIANT_BUCKETS_S`, or the next one above it."""
        return float(self.latencies[np.searchsorted(VARIANT_BUCKETS_S, seconds) + 1 :].sum())


def read(exposition: str) -> dict[str, Figures]:
    """By version, what a text in the Prometheus format says. Raises `ValueError` where another release wrote it."""
    by_status: defaultdict[str, dict[int, float]] = defaultdict(lambda: defaultdict(float))
    histograms: defaultdict[tuple[str, str], defaultdict[float, float]] = defaultdict(lambda: defaultdict(float))
    not_finite: defaultdict[str, float] = defaultdict(float)
    canary: dict[str, float] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            tag = sample.labels.get("model_version", "")
            if sample.name == "causeway_variant_requests_total":
                by_status[tag][int(sample.labels.get("status", ""))] += sample.value
            elif sample.name in ("causeway_variant_duration_seconds_bucket", "causeway_scores_bucket"):
                histograms[sample.name, tag][float(sample.labels["le"])] += sample.value
            elif sample.name == "causeway_scores_not_finite_total":
                not_finite[tag] += sample.value
            elif sample.name == "causeway_deployed" and sample.labels.get("variant") == "canary":
                canary[tag] = sample.value
    tags = by_status.keys() | {tag for _, tag in histograms} | not_finite.keys() | canary.keys()
    return {
        tag: Figures(
            dict(by_status[tag]),
            _counts(histograms["causeway_variant_duration_seconds_bucket", tag], VARIANT_BUCKETS_S),
            _counts(histograms["causeway_scores_bucket", tag], SCORE_BUCKETS),
            not_finite[tag],
            canary.get(tag, 0.0),
        )
        for tag in tags
    }


def requests_by_version(exposition: str) -> dict[str, int]:
    """How many requests each version answered with 200."""
    return {tag: int(figures.by_status.get(200, 0)) for tag, figures in read(exposition).items()}


def _counts(cumulative: Mapping[float, float], bounds: Sequence[float]) -> Counts:
    """The counts of single buckets from those up to each bound. Raises `ValueError` for other bounds than these."""
    if not cumulative:
        return np.zeros(len(bounds) + 1)
    if sorted(cumulative) != [*bounds, math.inf]:
        raise ValueError("histograms of another release")
    return np.diff([cumulative[bound] for bound in (*bounds, math.inf)], prepend=0.0)
