"""A device that has no memory left gets less to do at once; one that is lost stays so; rows at fault are neither."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import structlog
import torch
from hypothesis import given
from hypothesis import strategies as st

from causeway import errors
from causeway.contract import Array
from causeway.runtime.device import DeviceRuntime, failure, parts
from tests.conftest import PATIENCE_S

X = np.arange(1000, dtype=np.float32)[:, np.newaxis]
ILLEGAL = "CUDA error: an illegal memory access was encountered\nCompile with `TORCH_USE_CUDA_DSA` to enable"


class Doubling:
    """An engine that predicts twice the first feature, and asks `check` about each call first."""

    def __init__(self, check: Callable[[Sequence[Array]], None] = lambda chunks: None) -> None:
        self.check = check
        self.calls: list[list[int]] = []
        self.n_released = 0

    def run_all(self, chunks: Sequence[Array]) -> list[Array]:
        self.calls.append([len(chunk) for chunk in chunks])
        self.check(chunks)
        return [2 * chunk[:, :1] for chunk in chunks]

    def release(self) -> None:
        self.n_released += 1


def short_of_memory(n_rows: int) -> Doubling:
    """An engine that has memory for so many rows."""

    def check(chunks: Sequence[Array]) -> None:
        if max(map(len, chunks)) > n_rows:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    return Doubling(check)


@pytest.mark.parametrize(
    ("exc", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has"), "out_of_memory"),
        (torch.AcceleratorError("CUDA error: out of memory"), "out_of_memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out_of_memory"),
        (RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"), "out_of_memory"),
        (torch.AcceleratorError(ILLEGAL), "lost"),
        (RuntimeError("beginAllocateToPool: already recording to mempool_id"), "lost"),
        (RuntimeError("CUDA error: device-side assert triggered"), "lost"),
        (RuntimeError("CUDA failure 700: an illegal memory access was encountered ; GPU=0"), "lost"),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), "lost"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), None),
        (ValueError("a row like no other"), None),
    ],
)
def test_an_error_says_what_became_of_the_device(exc: Exception, expected: str | None) -> None:
    assert failure(exc) == expected


def test_what_cleaning_up_raises_after_memory_ran_out_is_no_loss() -> None:
    def capture() -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        finally:
            raise torch.AcceleratorError("CUDA error: operation failed due to a previous error during capture")

    with pytest.raises(torch.AcceleratorError) as raised:
        capture()
    assert failure(raised.value) == "out_of_memory"


@given(n_rows=st.integers(1, 300), largest=st.integers(1, 64))
def test_parts_are_all_rows_in_their_order_and_only_the_first_is_smaller(n_rows: int, largest: int) -> None:
    rows = list(range(n_rows))
    of_each = [rows[part] for part in parts(n_rows, largest)]
    assert [row for part in of_each for row in part] == rows
    assert 1 <= len(of_each[0]) <= largest
    assert all(len(part) == largest for part in of_each[1:])


def test_without_memory_batches_are_halved_and_stay_so() -> None:
    engine, told = short_of_memory(100), list[int]()
    runtime = DeviceRuntime("torch cuda:0", "cuda:0", engine, out_of_memory=lambda: told.append(1))
    with structlog.testing.capture_logs() as events:
        np.testing.assert_array_equal(runtime.run(X), 2 * X)
    assert runtime.largest == 64
    assert [(event["event"], event["rows_from_now_on"]) for event in events] == [
        ("out_of_device_memory", n_rows) for n_rows in (512, 256, 128, 64)
    ]
    assert len(told) == engine.n_released == 4
    engine.calls.clear()
    np.testing.assert_array_equal(runtime.run(X[:150]), 2 * X[:150])
    assert engine.calls == [[22, 64, 64]]
    assert len(told) == 4


def test_a_device_without_memory_for_one_row_is_lost() -> None:
    engine = short_of_memory(0)
    runtime = DeviceRuntime("torch cuda:0", "cuda:0", engine)
    for _ in range(2):
        with pytest.raises(errors.DeviceLost, match=r"cuda:0 is lost: .*out of memory"):
            runtime.run(X[:3])
    assert engine.calls == [[3], [1, 2], [1, 1, 1]]


def test_the_memory_is_given_back_once_no_batch_is_computed() -> None:
    is_computing, may_end = threading.Event(), threading.Event()

    def check(chunks: Sequence[Array]) -> None:
        is_computing.set()
        assert may_end.wait(PATIENCE_S)
        assert engine.n_released == 0

    engine = Doubling(check)
    runtime = DeviceRuntime("torch cuda:0", "cuda:0", engine)
    with ThreadPoolExecutor(2) as pool:
        answers = pool.submit(runtime.run, X)
        assert is_computing.wait(PATIENCE_S)
        closing = pool.submit(runtime.close)
        may_end.set()
        np.testing.assert_array_equal(answers.result(), 2 * X)
        closing.result()
    assert engine.n_released == 1


def test_a_lost_device_is_asked_no_more() -> None:
    def check(chunks: Sequence[Array]) -> None:
        raise torch.AcceleratorError(ILLEGAL)

    engine = Doubling(check)
    runtime = DeviceRuntime("torch cuda:0", "cuda:0", engine)
    for _ in range(3):
        with pytest.raises(errors.DeviceLost) as raised:
            runtime.run(X)
        assert raised.value.message == "cuda:0 is lost: CUDA error: an illegal memory access was encountered"
    runtime.close()
    assert (len(engine.calls), engine.n_released) == (1, 0)


def test_an_error_about_rows_is_raised_as_it_is_and_changes_nothing() -> None:
    def check(chunks: Sequence[Array]) -> None:
        if np.isnan(chunks[0]).any():
            raise ValueError("not these")

    runtime = DeviceRuntime("torch cuda:0", "cuda:0", Doubling(check))
    with pytest.raises(ValueError, match="not these"):
        runtime.run(np.full((4, 1), np.nan, np.float32))
    np.testing.assert_array_equal(runtime.run(X), 2 * X)
    assert runtime.largest > len(X)


def test_every_power_of_two_is_run_before_the_first_request() -> None:
    engine = Doubling()
    DeviceRuntime("torch cuda:0", "cuda:0", engine, largest=16).warm_up(3)
    assert engine.calls == [[16, 16], [8], [4], [2], [1]]
