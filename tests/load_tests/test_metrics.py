"""What a server says of itself, and of a stage by differences."""

import pytest

from load_tests import metrics
from load_tests.metrics import growth, server_side

BEFORE = {
    'causeway_phase_seconds_count{phase="queue"}': 100.0,
    'causeway_phase_seconds_sum{phase="queue"}': 9.0,
    "causeway_batch_rows_count": 50.0,
    "causeway_batch_rows_sum": 100.0,
    'causeway_batches_total{released="idle"}': 50.0,
    'causeway_batches_total{released="full"}': 3.0,
    'causeway_process_cpu_seconds_total{process="keeper"}': 1.0,
    'causeway_process_cpu_seconds_total{process="worker"}': 5.0,
    'causeway_process_resident_bytes{pid="2",process="keeper"}': 50e6,
    'causeway_process_resident_bytes{pid="1",process="worker"}': 150e6,
    "python_info": 1.0,
}
AFTER = BEFORE | {
    'causeway_phase_seconds_count{phase="queue"}': 300.0,
    'causeway_phase_seconds_sum{phase="queue"}': 9.4,
    "causeway_batch_rows_count": 60.0,
    "causeway_batch_rows_sum": 180.0,
    'causeway_batches_total{released="idle"}': 57.0,
    'causeway_refusals_total{code="overloaded"}': 12.0,
    'causeway_phase_seconds_bucket{le="0.1",phase="queue"}': 9.0,
    "python_info": 2.0,
}


def test_means_and_counts_are_of_the_stage_alone() -> None:
    told = server_side(growth(BEFORE, AFTER))
    assert told.queue_ms == pytest.approx(2.0)
    assert told.batch_rows == 8.0
    assert told.released == {"idle": 7.0}
    assert told.refusals == {"overloaded": 12.0}
    assert told.compute_ms is None


def test_a_server_that_says_nothing_has_no_figures() -> None:
    told = server_side(growth({}, {}))
    assert told.queue_ms is told.batch_rows is told.loop_lag_ms is None
    assert told.released == told.refusals == {}
    assert metrics.cpu_s({}) is metrics.resident_mb({}) is metrics.is_quiet({}) is metrics.champion({}) is None


def test_processes_count_together() -> None:
    assert metrics.cpu_s(BEFORE) == 6.0
    assert metrics.resident_mb(BEFORE) == 200.0


@pytest.mark.parametrize(("in_flight", "queued", "is_quiet"), [(1, 0, True), (2, 0, False), (1, 3, False)])
def test_a_server_is_quiet_that_answers_the_question_alone(in_flight: int, queued: int, is_quiet: bool) -> None:
    series = {"causeway_requests_in_flight": float(in_flight), "causeway_queued_rows": float(queued)}
    assert metrics.is_quiet(series) is is_quiet


def test_a_failed_look_before_says_nothing_of_the_stage() -> None:
    assert metrics.growth({}, {'causeway_refusals_total{code="overloaded"}': 50_000.0}) == {}
