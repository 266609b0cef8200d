"""A network predicts the same in torch on every device, whatever the batch, and its device is kept busy.

Where there is no GPU, what is for it alone (streams, graphs, pinned memory) is not run; all else is, on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from causeway import errors, networks
from causeway.contract import PRECISION_TOLERANCE
from causeway.runtime.device import DeviceRuntime
from causeway.runtime.network import SLOTS, Eager, NetworkEngine, open_network
from tests.networks.test_networks import ALL, X, predict, save

DEVICES = ["cpu", *(["cuda:0"] if torch.cuda.is_available() else [])]
LARGEST = 16

each = pytest.mark.parametrize("description", ALL, ids=lambda d: f"{d.kind}-{d.precision}")
on_each_device = pytest.mark.parametrize("device", DEVICES)


@on_each_device
@each
@pytest.mark.parametrize("n_rows", [1, 2, 3, 16, 17, 32, 47, 300])
def test_a_batch_predicts_what_the_network_does_for_each_row_alone(
    description: networks.Network, device: str, n_rows: int, tmp_path: Path
) -> None:
    save(tmp_path, description)
    runtime = open_network(tmp_path, device, largest=LARGEST)
    tolerance = PRECISION_TOLERANCE[description.precision]
    predictions = runtime.run(X[:n_rows])
    assert predictions.shape == (n_rows, 1)
    assert predictions.dtype == np.float32
    alone = np.concatenate([runtime.run(row[np.newaxis]) for row in X[:n_rows]])
    np.testing.assert_allclose(predictions, alone, rtol=0, atol=tolerance)
    _, module = networks.load(tmp_path)
    np.testing.assert_allclose(predictions, predict(module, X[:n_rows]), rtol=0, atol=tolerance)


@on_each_device
def test_threads_may_share_one_runtime_and_keep_what_they_got(device: str, tmp_path: Path) -> None:
    save(tmp_path, ALL[0])
    runtime = open_network(tmp_path, device, largest=LARGEST)
    expected = runtime.run(X)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda first: runtime.run(X[first : first + 40]), range(260)))
    for first, predictions in enumerate(found):
        np.testing.assert_allclose(predictions, expected[first : first + 40], rtol=0, atol=1e-5)


def test_the_name_says_the_device_and_the_precision(tmp_path: Path) -> None:
    save(tmp_path, msgspec.structs.replace(ALL[0], precision="fp16"))
    runtime = open_network(tmp_path, largest=1)
    assert (runtime.name, runtime.device) == ("torch cpu fp16", "cpu")


@pytest.mark.skipif(torch.version.cuda is not None, reason="this torch has CUDA")
def test_a_torch_without_cuda_says_so(tmp_path: Path) -> None:
    with pytest.raises(errors.NoEngine, match="a build for the CPU only"):
        open_network(tmp_path, "cuda:0")


class Late:
    """A launcher whose work is done no sooner than somebody waits for it, as on a busy device."""

    def __init__(self) -> None:
        self.launched: list[tuple[int, int]] = []
        self.most_under_way = 0
        self._work: dict[int, Callable[[], None]] = {}

    def launch(self, slot: int, n_rows: int, work: Callable[[], None]) -> None:
        assert slot not in self._work
        self.launched.append((slot, n_rows))
        self._work[slot] = work
        self.most_under_way = max(self.most_under_way, len(self._work))

    def wait(self, slot: int) -> None:
        self._work.pop(slot, lambda: None)()

    def release(self) -> None:
        self._work.clear()


class Doubling(nn.Module):
    """Predicts twice the first feature."""

    def forward(self, features: Tensor) -> Tensor:
        return 2 * features[:, :1]


def engine_on(launcher: Eager | Late, module: nn.Module | None = None) -> NetworkEngine:
    return NetworkEngine(module or Doubling(), 4, "cpu", launcher, LARGEST)


def test_parts_of_a_batch_are_prepared_while_others_are_computed() -> None:
    launcher = Late()
    runtime = DeviceRuntime("late", "cpu", engine_on(launcher), largest=LARGEST)
    np.testing.assert_array_equal(runtime.run(X[:100]), 2 * X[:100, :1])
    assert launcher.most_under_way == SLOTS
    assert launcher.launched == [(0, 4), (1, 16), (0, 16), (1, 16), (0, 16), (1, 16), (0, 16)]


def test_no_size_is_new_to_a_request_after_the_warm_up() -> None:
    launcher = Late()
    runtime = DeviceRuntime("late", "cpu", engine_on(launcher), largest=LARGEST)
    runtime.warm_up(4)
    known = set(launcher.launched)
    for n_rows in range(1, 4 * LARGEST):
        runtime.run(X[:n_rows])
    assert set(launcher.launched) == known


def test_what_a_failed_batch_left_under_way_harms_no_other() -> None:
    launcher = Late()
    engine = engine_on(launcher)
    with pytest.raises(ValueError, match="broadcast"):
        engine.run_all([X[:8], X[:8, :3]])
    np.testing.assert_array_equal(engine.run_all([X[8:16]])[0], 2 * X[8:16, :1])


class Failing(nn.Module):
    """Predicts as `Doubling`, and raises `problem` where a batch has more than `n_rows` rows."""

    def __init__(self, problem: Exception, n_rows: int = 0) -> None:
        super().__init__()
        self.problem = problem
        self.n_rows = n_rows

    def forward(self, features: Tensor) -> Tensor:
        if len(features) > self.n_rows:
            raise self.problem
        return 2 * features[:, :1]


def test_a_network_too_large_for_the_memory_gets_smaller_batches() -> None:
    module = Failing(torch.OutOfMemoryError("CUDA out of memory."), n_rows=5)
    runtime = DeviceRuntime("eager", "cpu", engine_on(Eager(), module), largest=LARGEST)
    runtime.warm_up(4)
    assert runtime.largest == 4
    np.testing.assert_array_equal(runtime.run(X), 2 * X[:, :1])


def test_a_poisoned_context_loses_the_device() -> None:
    module = Failing(torch.AcceleratorError("CUDA error: an illegal memory access was encountered"))
    runtime = DeviceRuntime("eager", "cuda:0", engine_on(Eager(), module), largest=LARGEST)
    with pytest.raises(errors.DeviceLost):
        runtime.run(X)
    assert runtime.lost == "CUDA error: an illegal memory access was encountered"
