"""Writes deploy/grafana/causeway.json, the dashboard for whoever is on call, from the definitions of the metrics.

Every query is made of metrics and labels that exist: one that does not exist ends this program with a `KeyError`. What
a panel says about itself are the help texts of its metrics.

`python tools/dashboard.py` writes it; with `--check` it only says whether it is what it would write, by its exit code.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
DASHBOARD = ROOT / "deploy" / "grafana" / "causeway.json"
sys.path.insert(0, str(ROOT))

from causeway.monitoring.definitions import definitions  # noqa: E402

DEFINED = definitions()
SCRAPED_LABELS = {"job", "instance", "pid", "le"}
"""Labels that come with being scraped, being one of several processes, or being a histogram."""

SERVING = DEFINED["causeway_state_revision"].name
"""What every worker shows that serves."""

WIDTH, HEIGHT = 24, 7
"""Of the whole and of a panel, in Grafana's units."""

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOSEN = 'job="$job", instance=~"$instance"'


@dataclass(frozen=True)
class Query:
    """An expression in PromQL, and what it says of itself."""

    expr: str
    metrics: tuple[str, ...]
    legend: str = ""

    def __truediv__(self, other: Query) -> Query:
        return Query(f"{self.expr} / {other.expr}", (*self.metrics, *other.metrics), self.legend)


def series(name: str, matching: str = "", suffix: str = "", by: Sequence[str] = ()) -> str:
    """A selector of a metric's series. Raises `KeyError` where it, or a label of `by` or `matching`, does not exist."""
    definition = DEFINED[name]
    matched = [pair.split("=")[0].rstrip("!~") for pair in matching.split(", ") if pair]
    for label in (*by, *matched):
        if label not in (*definition.labels, *SCRAPED_LABELS):
            raise KeyError(f"{name} has no label {label}")
    return f"{name}{suffix}{{{', '.join(filter(None, (CHOSEN, matching)))}}}"


def legend(by: Sequence[str]) -> str:
    """The values of these labels."""
    return " ".join(f"{{{{{label}}}}}" for label in by)


def rate(name: str, *by: str, matching: str = "", suffix: str = "") -> Query:
    """How fast a counter grows, in one a second."""
    expr = f"sum by ({', '.join(by)}) (rate({series(name, matching, suffix, by)}[$__rate_interval]))"
    return Query(expr, (name,), legend(by))


def quantile(q: float, name: str, *by: str) -> Query:
    """A quantile of a histogram."""
    buckets = series(name, suffix="_bucket", by=by)
    expr = f"histogram_quantile({q}, sum by ({', '.join(('le', *by))}) (rate({buckets}[$__rate_interval])))"
    return Query(expr, (name,), f"p{q * 100:g} {legend(by)}".strip())


def mean(name: str, *by: str) -> Query:
    """The mean of a histogram's observations."""
    return rate(name, *by, suffix="_sum") / rate(name, *by, suffix="_count")


def gauge(name: str, *by: str, how: str = "max", matching: str = "") -> Query:
    """The current value of a gauge."""
    return Query(f"{how} by ({', '.join(by)}) ({series(name, matching, by=by)})", (name,), legend(by))


def age(name: str, *by: str) -> Query:
    """Seconds since a time that a gauge tells."""
    of = gauge(name, *by)
    return Query(f"time() - {of.expr}", of.metrics, of.legend)


def named(name: str, query: Query) -> Query:
    """The query with a legend of its own."""
    return Query(query.expr, query.metrics, f"{name} {query.legend}".strip())


def panel(title: str, unit: str, *queries: Query, maximum: float | None = None) -> dict[str, Any]:
    """A panel; `unit` is one of Grafana's."""
    metrics = dict.fromkeys(metric for query in queries for metric in query.metrics)
    return {
        "type": "timeseries",
        "title": title,
        "description": "\n\n".join(f"{metric}: {DEFINED[metric].help}" for metric in metrics),
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": {"unit": unit, "min": 0, **({} if maximum is None else {"max": maximum})},
            "overrides": [],
        },
        "targets": [
            {"refId": chr(ord("A") + i), "datasource": DATASOURCE, "expr": query.expr, "legendFormat": query.legend}
            for i, query in enumerate(queries)
        ],
    }


PREDICT = 'endpoint="/predict"'
ANSWERED = f'{PREDICT}, status!="499"'
VERSION = ("variant", "model_version")
BY_COLUMN = ("model_version", "column")

ROWS: dict[str, list[dict[str, Any]]] = {
    "Service": [
        panel("Requests by status", "reqps", rate("causeway_requests_total", "status", matching=PREDICT)),
        panel(
            "Share of failed requests",
            "percentunit",
            named("5xx", rate("causeway_requests_total", matching=f'{PREDICT}, status=~"5.."'))
            / rate("causeway_requests_total", matching=ANSWERED),
        ),
        panel(
            "Latency of answers",
            "s",
            *(quantile(q, "causeway_variant_duration_seconds") for q in (0.5, 0.95, 0.99)),
        ),
        panel(
            "In flight, and rows in the queue",
            "short",
            named("requests in flight", gauge("causeway_requests_in_flight", how="sum")),
            named("rows in the queue", gauge("causeway_queued_rows", how="sum")),
        ),
    ],
    "Where the time goes": [
        panel("Mean of each phase", "s", mean("causeway_phase_seconds", "phase")),
        panel("p99 of each phase", "s", quantile(0.99, "causeway_phase_seconds", "phase")),
        panel("p99 of each endpoint", "s", quantile(0.99, "causeway_request_duration_seconds", "endpoint")),
    ],
    "Batches": [
        panel("Batches by why they were released", "ops", rate("causeway_batches_total", "released")),
        panel("Rows in a batch", "short", mean("causeway_batch_rows"), quantile(0.99, "causeway_batch_rows")),
        panel("Rows computed", "rowsps", rate("causeway_rows_total")),
        panel("Response cache", "reqps", rate("causeway_cache_requests_total", "result")),
    ],
    "Refusals": [
        panel("Refused requests by code", "reqps", rate("causeway_refusals_total", "code")),
        panel("Refused values by feature", "reqps", rate("causeway_refused_values_total", "column", "reason")),
        panel("Requests on which the engine failed", "reqps", rate("causeway_poisoned_requests_total")),
    ],
    "Workers": [
        panel("CPU", "short", rate("causeway_process_cpu_seconds_total", "instance", "process")),
        panel("Memory", "bytes", gauge("causeway_process_resident_bytes", "instance", "process", "pid")),
        panel(
            "Event-loop lag",
            "s",
            *(quantile(q, "causeway_event_loop_lag_seconds", "instance") for q in (0.5, 0.99)),
        ),
        panel("Time in pauses for garbage", "s", rate("causeway_gc_pause_seconds", "generation", suffix="_sum")),
        panel("p99 of a pause for garbage", "s", quantile(0.99, "causeway_gc_pause_seconds", "generation")),
        panel("Revision of the deployment", "none", gauge("causeway_state_revision", "instance", "pid")),
        panel("Follows the state file", "none", gauge("causeway_state_followed", "instance", "pid"), maximum=1),
    ],
    "Versions": [
        panel("Share of the requests", "percent", gauge("causeway_deployed", *VERSION), maximum=100),
        panel("Requests", "reqps", rate("causeway_variant_requests_total", *VERSION, "status")),
        panel("p99 of answers", "s", quantile(0.99, "causeway_variant_duration_seconds", *VERSION)),
        panel("Age", "s", age("causeway_model_created_timestamp_seconds", "model_version")),
        panel("Rows for the shadow", "rowsps", rate("causeway_shadow_rows_total", "model_version", "result")),
        panel("Difference of the shadow", "none", mean("causeway_shadow_differences", "model_version")),
    ],
    "Model": [
        panel(
            "Drift, over the threshold",
            "none",
            gauge("causeway_drift_statistic", *BY_COLUMN, "statistic")
            / gauge("causeway_drift_threshold", *BY_COLUMN, "statistic"),
        ),
        panel("Drift alarms", "none", gauge("causeway_drift_alarm", *BY_COLUMN), maximum=1),
        panel("Age of the newest window", "s", age("causeway_drift_window_closed_timestamp_seconds", "model_version")),
        panel("Rows in the newest window", "short", gauge("causeway_drift_window_rows", "model_version")),
        panel(
            "Quality, estimated and by labels",
            "none",
            named("estimated", gauge("causeway_estimated_quality", "model_version", "metric", "bound")),
            named("by labels", gauge("causeway_quality", "model_version", "metric")),
        ),
        panel("Labels behind it", "short", gauge("causeway_quality_labels", "model_version")),
        panel(
            "Predictions, as their place between minimum and maximum",
            "none",
            named("mean", mean("causeway_scores", "model_version")),
            quantile(0.5, "causeway_scores", "model_version"),
            quantile(0.99, "causeway_scores", "model_version"),
        ),
        panel("Predictions that are no number", "rowsps", rate("causeway_scores_not_finite_total", "model_version")),
        panel("Requests whose labels came", "reqps", rate("causeway_feedback_total", "result")),
    ],
    "Prediction log": [
        panel("Rows written", "rowsps", rate("causeway_prediction_log_written_total")),
        panel("Rows left out", "rowsps", rate("causeway_prediction_log_left_out_total", "reason")),
        panel("Backlog", "bytes", gauge("causeway_prediction_log_backlog_bytes", "instance")),
        panel("Failures of the database", "ops", rate("causeway_database_errors_total")),
    ],
    "Devices": [
        panel("Workers by engine", "short", gauge("causeway_engine_workers", "engine", "device", how="sum")),
        panel(
            "Failures of devices",
            "ops",
            named("out of memory", rate("causeway_device_out_of_memory_total")),
            named("lost", rate("causeway_device_lost_total")),
        ),
        panel("GPU utilization", "percentunit", gauge("causeway_gpu_utilization_ratio", "instance", "gpu"), maximum=1),
        panel(
            "GPU memory",
            "bytes",
            named("used", gauge("causeway_gpu_memory_used_bytes", "instance", "gpu")),
            named("there is", gauge("causeway_gpu_memory_bytes", "instance", "gpu")),
        ),
    ],
}


def variable(name: str, query: str, *, is_multiple: bool = False) -> dict[str, Any]:
    """A choice above the dashboard, of the values of a label."""
    every = {"multi": True, "includeAll": True, "allValue": ".*"} if is_multiple else {}
    return {"name": name, "type": "query", "datasource": DATASOURCE, "query": query, "refresh": 2, **every}


def dashboard() -> dict[str, Any]:
    """The whole of it, as Grafana takes it."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append({"type": "row", "title": title, "collapsed": False, "panels": []})
        panels[-1]["gridPos"] = {"x": 0, "y": y, "w": WIDTH, "h": 1}
        y += 1
        per_line = min(len(row), 4)
        for i, one in enumerate(row):
            position = {"x": i % per_line * (WIDTH // per_line), "y": y + i // per_line * HEIGHT}
            panels.append({**one, "gridPos": {**position, "w": WIDTH // per_line, "h": HEIGHT}})
        y += -(-len(row) // per_line) * HEIGHT
    return {
        "title": "Causeway",
        "uid": "causeway",
        "tags": ["causeway"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "templating": {
            "list": [
                {"name": "datasource", "type": "datasource", "query": "prometheus"},
                variable("job", f"label_values({SERVING}, job)"),
                variable("instance", f'label_values({SERVING}{{job="$job"}}, instance)', is_multiple=True),
            ]
        },
        "panels": [{"id": number, **one} for number, one in enumerate(panels, 1)],
    }


def main() -> int:
    """Runs the command line; the exit code is 1 where `--check` finds the file out of date."""
    text = json.dumps(dashboard(), indent=1) + "\n"
    if "--check" in sys.argv[1:]:
        is_current = DASHBOARD.exists() and DASHBOARD.read_text() == text
        if not is_current:
            print(f"{DASHBOARD.relative_to(ROOT)} is out of date; `make format` writes it again")
        return int(not is_current)
    DASHBOARD.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
