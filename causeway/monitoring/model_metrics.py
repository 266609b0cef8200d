"""What the keeper knows of the models, as Prometheus metrics: drift, quality, and how the prediction log fares.

A worker shows them with its own: they lie in the same folder. Those of a keeper that was killed go with it.
"""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from causeway.monitoring.metrics import left_out_counter
from causeway.monitoring.process import Usage

BOUNDS = ("low", "estimate", "high")


class ModelMetrics:
    """The metrics of the keeper, kept in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def gauge(name: str, documentation: str, labels: tuple[str, ...] = ()) -> Gauge:
            return Gauge(name, documentation, labels, registry=registry, multiprocess_mode="livemostrecent")

        self._drift = gauge(
            "causeway_drift_statistic",
            "How far the newest window of a version is from its reference, by feature, or the output, and statistic.",
            ("model_version", "column", "statistic"),
        )
        self._threshold = gauge(
            "causeway_drift_threshold",
            "What a drift statistic hardly ever exceeds without drift.",
            ("model_version", "column", "statistic"),
        )
        self._alarm = gauge(
            "causeway_drift_alarm",
            "1 where a feature, or the output, of a version has drifted, otherwise 0.",
            ("model_version", "column"),
        )
        self._window_rows = gauge(
            "causeway_drift_window_rows", "Rows in the newest window of a version.", ("model_version",)
        )
        self._window_closed = gauge(
            "causeway_drift_window_closed_timestamp_seconds",
            "When the newest window of a version was closed, in seconds since 1970.",
            ("model_version",),
        )
        self._quality = gauge(
            "causeway_quality",
            "Quality of a version's predictions by the labels that came, by metric.",
            ("model_version", "metric"),
        )
        self._labels = gauge("causeway_quality_labels", "Labels behind that quality.", ("model_version",))
        self._estimate = gauge(
            "causeway_estimated_quality",
            "Quality of a version's predictions before labels come: estimate, and low and high around it.",
            ("model_version", "metric", "bound"),
        )
        self._written = Counter(
            "causeway_prediction_log_written_total",
            "Rows that were written to the prediction log.",
            registry=registry,
        )
        self._left_out = left_out_counter(registry)
        self._backlog = gauge(
            "causeway_prediction_log_backlog_bytes", "What waits on disk for the prediction log's database."
        )
        self._errors = Counter(
            "causeway_database_errors_total", "Times that the database did not do what it was asked.", registry=registry
        )
        self._usage = Usage("keeper", registry)

    def drift(
        self,
        version: str,
        statistics: Mapping[tuple[str, str], float],
        thresholds: Mapping[tuple[str, str], float],
        alarms: Mapping[str, bool],
        *,
        n_rows: int,
        closed: float,
    ) -> None:
        """Shows the newest window of a version.

        statistics, thresholds: by column and statistic. alarms: by column. closed: in seconds since 1970.
        """
        for labels, value in statistics.items():
            self._drift.labels(version, *labels).set(value)
        for labels, value in thresholds.items():
            self._threshold.labels(version, *labels).set(value)
        for column, is_drifted in alarms.items():
            self._alarm.labels(version, column).set(is_drifted)
        self._window_rows.labels(version).set(n_rows)
        self._window_closed.labels(version).set(closed)

    def quality(self, version: str, metrics: Mapping[str, float], *, n_labels: int) -> None:
        """Shows how good a version was by `n_labels` labels, by metric."""
        for metric, value in metrics.items():
            self._quality.labels(version, metric).set(value)
        self._labels.labels(version).set(n_labels)

    def estimated(self, version: str, estimates: Mapping[str, tuple[float, float, float]]) -> None:
        """Shows how good a version is without labels, by metric: low, estimate, high."""
        for metric, values in estimates.items():
            for bound, value in zip(BOUNDS, values, strict=True):
                self._estimate.labels(version, metric, bound).set(value)

    def written(self, n_rows: int) -> None:
        """Counts rows that were written to the prediction log."""
        self._written.inc(n_rows)

    def left_out(self, reason: str, n_rows: int) -> None:
        """Counts rows that the prediction log left out, for one of `metrics.LEFT_OUT`."""
        self._left_out.labels(reason).inc(n_rows)

    def backlog(self, n_bytes: int) -> None:
        """Shows what waits on disk for the database."""
        self._backlog.set(n_bytes)

    def database_failed(self) -> None:
        """Counts one time that the database did not do what it was asked."""
        self._errors.inc()

    def flush(self) -> None:
        """Counts the CPU time and the memory of this process; for every second or so."""
        self._usage.note()
