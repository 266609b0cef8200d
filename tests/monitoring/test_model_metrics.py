"""What the keeper knows is shown beside what the workers count, also after one of them was killed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from causeway.monitoring import folder
from causeway.monitoring.definitions import definitions
from causeway.monitoring.model_metrics import ModelMetrics
from tests.conftest import ROOT
from tests.monitoring.test_folder import told
from tests.monitoring.test_metrics import series


def test_the_newest_window_of_each_version_is_shown() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry)
    thresholds = {("a", "psi"): 0.2, ("p", "ks"): 0.1}
    for psi, is_drifted, closed in ((0.5, True, 1000.0), (0.1, False, 2000.0)):
        statistics = {("a", "psi"): psi, ("p", "ks"): 0.05}
        alarms = {"a": is_drifted, "p": False}
        metrics.drift("fraud:a", statistics, thresholds, alarms, n_rows=int(closed), closed=closed)
        assert series(registry, "causeway_drift_alarm")["a", "fraud:a"] == is_drifted
    assert series(registry, "causeway_drift_statistic") == {
        ("a", "fraud:a", "psi"): 0.1,
        ("p", "fraud:a", "ks"): 0.05,
    }
    assert series(registry, "causeway_drift_threshold")["a", "fraud:a", "psi"] == 0.2
    assert series(registry, "causeway_drift_window_rows") == {("fraud:a",): 2000}
    assert series(registry, "causeway_drift_window_closed_timestamp_seconds") == {("fraud:a",): 2000}


def test_quality_is_shown_as_estimated_and_by_labels() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry)
    metrics.estimated("fraud:a", {"average_precision": (0.6, 0.7, 0.8)})
    metrics.quality("fraud:a", {"average_precision": 0.65}, n_labels=40)
    assert series(registry, "causeway_estimated_quality") == {
        ("low", "average_precision", "fraud:a"): 0.6,
        ("estimate", "average_precision", "fraud:a"): 0.7,
        ("high", "average_precision", "fraud:a"): 0.8,
    }
    assert series(registry, "causeway_quality") == {("average_precision", "fraud:a"): 0.65}
    assert series(registry, "causeway_quality_labels") == {("fraud:a",): 40}


def test_how_the_prediction_log_fares_is_shown() -> None:
    registry = CollectorRegistry()
    metrics = ModelMetrics(registry)
    metrics.written(5)
    metrics.left_out("sampled", 3)
    metrics.backlog(4096)
    metrics.database_failed()
    metrics.flush()
    assert series(registry, "causeway_prediction_log_written_total") == {(): 5}
    assert series(registry, "causeway_prediction_log_left_out_total")["sampled",] == 3
    assert series(registry, "causeway_prediction_log_backlog_bytes") == {(): 4096}
    assert series(registry, "causeway_database_errors_total") == {(): 1}
    assert series(registry, "causeway_process_cpu_seconds_total")["keeper",] > 0


PROCESS = """
from causeway.monitoring import folder
folder.join()
import sys
import numpy as np
from prometheus_client import CollectorRegistry
from causeway.monitoring.metrics import Metrics
from causeway.monitoring.model_metrics import ModelMetrics
if sys.argv[1] == "worker":
    metrics = Metrics(CollectorRegistry())
    metrics.watch(in_flight=lambda: 4, queued_rows=lambda: 30)
    metrics.predicted([("champion", "fraud:a")], np.array([(0, 0.01, 0.001, 0.002, 0.003, 0.004)]))
    metrics.left_out("disk", 2)
    metrics.gpu(0, 0.5, 1, 2)
else:
    metrics = ModelMetrics(CollectorRegistry())
    metrics.drift("fraud:a", {("a", "psi"): float(sys.argv[2])}, {}, {"a": True}, n_rows=9, closed=1.0)
    metrics.left_out("sampled", 1)
    metrics.written(10)
metrics.flush()
print("told", flush=True)
input()
"""


@pytest.fixture
def processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    for variable in (folder.VARIABLE, "PROMETHEUS_MULTIPROC_DIR"):  # BentoML sets the latter, to a folder of its own
        monkeypatch.setenv(variable, str(tmp_path))
    with ExitStack() as stack:
        yield stack


def started(processes: ExitStack, *arguments: str) -> subprocess.Popen[bytes]:
    """A process that has told its metrics; killed at the end of the test."""
    command = [sys.executable, "-c", PROCESS, *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    processes.enter_context(process)
    processes.callback(process.kill)
    assert process.stdout is not None
    assert process.stdout.readline() == b"told\n"
    return process


def value(by: Path, name: str) -> float | None:
    """Of the series whose name and labels begin so, added up; None where there is none."""
    found = [float(line.rpartition(" ")[2]) for line in told(by) if line.startswith(name)]
    return sum(found) if found else None


def test_of_killed_processes_what_they_counted_stays_and_how_they_were_goes(
    processes: ExitStack, tmp_path: Path
) -> None:
    workers = [started(processes, "worker") for _ in range(2)]
    keeper = started(processes, "keeper", "0.5")

    def check(n_workers: int, psi: float | None, n_keepers: int) -> None:
        folder.forget_the_dead()
        assert value(tmp_path, "causeway_requests_in_flight") == 4 * n_workers
        assert value(tmp_path, "causeway_queued_rows") == 30 * n_workers
        resident = [line for line in told(tmp_path) if line.startswith("causeway_process_resident_bytes")]
        assert sum('process="worker"' in line for line in resident) == n_workers
        assert sum('process="keeper"' in line for line in resident) == (psi is not None)
        assert value(tmp_path, "causeway_gpu_utilization_ratio") == 0.5
        assert value(tmp_path, "causeway_drift_statistic") == psi
        assert value(tmp_path, "causeway_requests_total") == 2
        assert value(tmp_path, 'causeway_phase_seconds_count{phase="queue"}') == 2
        left_out = {"disk": 4, "sampled": n_keepers, "backlog": 0}
        for reason, n_rows in left_out.items():
            assert value(tmp_path, f'causeway_prediction_log_left_out_total{{reason="{reason}"}}') == n_rows
        assert value(tmp_path, "causeway_prediction_log_written_total") == 10 * n_keepers

    check(2, 0.5, 1)
    cpu_s = value(tmp_path, "causeway_process_cpu_seconds_total")
    workers[1].kill()
    workers[1].wait()
    check(1, 0.5, 1)
    keeper.kill()
    keeper.wait()
    check(1, None, 1)
    assert value(tmp_path, "causeway_process_cpu_seconds_total") == cpu_s
    started(processes, "keeper", "0.25")
    check(1, 0.25, 2)


def test_every_metric_is_defined_once_with_its_help_and_its_labels() -> None:
    defined = definitions()
    assert list(defined) == sorted(defined)
    assert defined["causeway_requests_total"].labels == ("endpoint", "status")
    assert defined["causeway_drift_alarm"].labels == ("model_version", "column")
    for name, definition in defined.items():
        assert name == definition.name
        assert definition.help.endswith(".")
        assert name.startswith("causeway_")
        assert (definition.type == "counter") == name.endswith("_total")
