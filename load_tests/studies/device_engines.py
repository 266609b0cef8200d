"""Engines called in process, in turns: what slows the machine down for a while slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import TypedDict, TypeVar

import numpy as np
from numpy.typing import NDArray

from causeway import networks
from causeway.contract import Array
from causeway.runtime import Runtime, candidates

Call = Callable[[Array], object]
Name = TypeVar("Name", bound=Hashable)

N_BATCHES = 16
"""Different batches that take turns."""

LEAST_CALLS = 3
"""In a turn, however long they take."""

WARM_UP = 3
"""Runs before a capture, as PyTorch's notes on CUDA semantics have it, section "CUDA Graphs"."""

BY_HAND = "CUDA graph by hand"
BY_HAND_WITH_COPIES = f"{BY_HAND}, with copies"


class Timed(TypedDict):
    """What calls took."""

    rows_per_s: list[float]
    p50_ms: list[float]
    """Each by round."""
    p99_ms: float
    """Of the calls of all rounds."""
    calls: int


def opened(folder: Path, device: str) -> tuple[list[Runtime], dict[str, str]]:
    """The engines that can be opened on `device` for the version in `folder`, and by name why others cannot."""
    runtimes, left_out = [], {}
    for candidate in candidates(folder, device=device):
        try:
            runtimes.append(candidate.open())
        except Exception as exc:  # whatever a library raises that lacks something
            left_out[candidate.name] = str(exc)
    return runtimes, left_out


def in_turns(
    contestants: Mapping[Name, Call], X: Array, n_rows: int, *, rounds: int, turn_s: float
) -> dict[Name, Timed]:
    """Each contestant called with batches of `n_rows` like X (n, n_features), for `turn_s` in each round.

    A turn's first call does not count. Each round begins with another contestant.
    """
    batches = cycle(np.resize(X, (N_BATCHES, n_rows, X.shape[1])))
    seconds: dict[Name, list[NDArray[np.float64]]] = {name: [] for name in contestants}
    order = list(contestants)
    for _ in range(rounds):
        for name in order:
            seconds[name].append(_turn(contestants[name], batches, turn_s))
        order.append(order.pop(0))
    return {name: _timed(turns, n_rows) for name, turns in seconds.items()}


def by_hand(folder: Path, device: str, n_rows: int) -> dict[str, Call]:
    """The network in `folder` as a CUDA graph for batches of `n_rows`, replayed and waited for.

    By `BY_HAND`, its rows lie on the device and its answers stay there, the same ones each time. By
    `BY_HAND_WITH_COPIES`, rows and answers are copied through pinned memory before and after.
    """
    import torch

    description, module = networks.load(folder)
    module.to(device)
    rows = torch.zeros((n_rows, description.n_features), device=device)
    rows_here = torch.zeros(rows.shape, pin_memory=True)
    answers_here = torch.zeros((n_rows, 1), pin_memory=True)
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    torch.cuda.synchronize(device)
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(WARM_UP):
            module(rows)
        with torch.cuda.graph(graph, stream=stream):
            answers = module(rows)

    def replay(X: Array) -> None:
        graph.replay()
        torch.cuda.synchronize(device)

    def replay_with_copies(X: Array) -> None:
        rows_here.copy_(torch.from_numpy(X))
        rows.copy_(rows_here, non_blocking=True)
        graph.replay()
        answers_here.copy_(answers, non_blocking=True)
        torch.cuda.synchronize(device)

    return {BY_HAND: replay, BY_HAND_WITH_COPIES: replay_with_copies}


def _turn(call: Call, batches: Iterator[Array], turn_s: float) -> NDArray[np.float64]:
    """Seconds of each call."""
    call(next(batches))
    seconds: list[float] = []
    end = time.perf_counter() + turn_s
    while time.perf_counter() < end or len(seconds) < LEAST_CALLS:
        X = next(batches)
        started = time.perf_counter()
        call(X)
        seconds.append(time.perf_counter() - started)
    return np.array(seconds)


def _timed(turns: list[NDArray[np.float64]], n_rows: int) -> Timed:
    every = np.concatenate(turns)
    return Timed(
        rows_per_s=[n_rows * len(turn) / float(turn.sum()) for turn in turns],
        p50_ms=[1e3 * float(np.median(turn)) for turn in turns],
        p99_ms=1e3 * float(np.quantile(every, 0.99)),
        calls=len(every),
    )
