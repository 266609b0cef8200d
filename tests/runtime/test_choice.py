"""Of several engines the quickest runs a version, and none that does not predict what was saved."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from causeway import errors
from causeway.contract import Array
from causeway.runtime import MODEL_FILE, Candidate, Runtime
from causeway.runtime.choice import LONG_S, SIZES, choose, seconds_by_size
from causeway.runtime.network import open_network
from causeway.runtime.onnx import OnnxRuntime
from tests import tiny

X = np.ones((8, 2), np.float32)


class Clock:
    """Time that only engines' work lets pass."""

    def __init__(self) -> None:
        self.now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("causeway.runtime.choice.time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


class Engine:
    """Takes `fixed_s` a batch and `per_row_s` a row."""

    device = "cuda:0"
    lost = None

    def __init__(self, name: str, clock: Clock, fixed_s: float, per_row_s: float) -> None:
        self.name = name
        self.clock = clock
        self.fixed_s, self.per_row_s = fixed_s, per_row_s
        self.is_closed = False
        self.sizes: list[int] = []

    def run(self, X: Array) -> Array:
        self.clock.now += self.fixed_s + self.per_row_s * len(X)
        self.sizes.append(len(X))
        return X[:, :1]

    def close(self) -> None:
        self.is_closed = True

    def candidate(self) -> Candidate:
        return Candidate(self.name, lambda: self)


def accept(runtime: Runtime) -> str:
    return f"{runtime.name} is fine"


def refuse(runtime: Runtime) -> str:
    raise errors.SamplesDiffer("tiny:1", 0.1, 1e-5)


def missing() -> Runtime:
    raise errors.NoEngine("torch is not installed")


def test_the_quickest_over_all_sizes_is_chosen_and_the_others_are_closed(clock: Clock) -> None:
    one_by_one = Engine("cpu", clock, 10e-6, 10e-6)
    all_at_once = Engine("gpu", clock, 80e-6, 0.01e-6)
    slow = Engine("other gpu", clock, 300e-6, 0.01e-6)
    choice = choose([engine.candidate() for engine in (one_by_one, all_at_once, slow)], accept, X)
    assert choice.runtime is all_at_once
    assert choice.accepted == "gpu is fine"
    assert [engine.is_closed for engine in (one_by_one, all_at_once, slow)] == [True, False, True]
    assert choice.figures.keys() == {"cpu", "gpu", "other gpu"}
    assert choice.figures["cpu"] == pytest.approx([20e-6, 650e-6, 10250e-6])


def test_what_cannot_be_opened_or_does_not_replay_is_left_out_with_the_reason(clock: Clock) -> None:
    wrong, right = Engine("quick and wrong", clock, 1e-6, 0), Engine("right", clock, 1e-3, 0)

    def only_right(runtime: Runtime) -> str:
        return refuse(runtime) if runtime is wrong else accept(runtime)

    choice = choose([wrong.candidate(), Candidate("torch cuda:0", missing), right.candidate()], only_right, X)
    assert choice.runtime is right
    assert (wrong.is_closed, right.is_closed) == (True, False)
    assert "its samples differ from the saved predictions by 0.1" in str(choice.figures["quick and wrong"])
    assert choice.figures["torch cuda:0"] == "left out: torch is not installed"


def test_where_none_is_left_every_reason_is_told(clock: Clock) -> None:
    candidates = [Engine("a", clock, 0, 0).candidate(), Candidate("b", missing)]
    with pytest.raises(errors.NoEngine, match=r"^a left out: .* its samples differ .*; b left out: torch is not inst"):
        choose(candidates, refuse, X)


def test_the_only_one_is_not_measured_and_its_error_is_its_own(clock: Clock) -> None:
    only = Engine("a", clock, 0, 0)
    choice = choose([only.candidate()], accept, X)
    assert (choice.runtime, choice.figures, only.sizes) == (only, {}, [])
    with pytest.raises(errors.SamplesDiffer):
        choose([only.candidate()], refuse, X)


def test_an_engine_that_would_take_too_long_is_not_made_to(clock: Clock) -> None:
    dear = Engine("dear", clock, 0.0, LONG_S / 100)
    seconds = seconds_by_size(dear, X)
    assert max(dear.sizes) == SIZES[1]
    assert seconds == pytest.approx([size * LONG_S / 100 for size in SIZES])


def test_two_real_engines_are_measured_and_agree(tmp_path: Path) -> None:
    for name, data in tiny.network_files().items():
        (tmp_path / name).write_bytes(data)
    candidates = [
        Candidate("onnxruntime", partial(OnnxRuntime, tmp_path / MODEL_FILE)),
        Candidate("torch", partial(open_network, tmp_path)),
    ]
    choice = choose(candidates, lambda runtime: runtime.run(tiny.X), tiny.X)
    assert choice.figures.keys() == {"onnxruntime", "torch"}
    assert all(isinstance(seconds, tuple) and len(seconds) == len(SIZES) for seconds in choice.figures.values())
    for candidate in candidates:
        np.testing.assert_allclose(candidate.open().run(tiny.X), choice.accepted, rtol=0, atol=1e-5)


def test_where_a_device_was_lost_and_nothing_else_fits_that_is_the_reason() -> None:
    def lose() -> Runtime:
        raise errors.DeviceLost("cuda:0", "CUDA error: unspecified launch failure")

    def lack() -> Runtime:
        raise errors.NoEngine("this ONNX Runtime has no such provider")

    lost, lacking = Candidate("torch cuda:0", lose), Candidate("onnxruntime cuda:0", lack)
    with pytest.raises(errors.DeviceLost, match="unspecified launch failure"):
        choose([lacking, lost, lacking], lambda runtime: None, X)
    with pytest.raises(errors.NoEngine, match="no such provider"):
        choose([lacking, lacking], lambda runtime: None, X)
