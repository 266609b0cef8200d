"""How variants do on one machine, beside the version that they are made from: scores, speed, memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from causeway.contract import Array
from causeway.quality.intervals import Interval
from causeway.quality.measures import Quality, Scores
from causeway.runtime import MODEL_FILE, Runtime, open_runtime
from causeway.training.dataset import Dataset
from causeway.training.evaluation import quality
from causeway.training.gate import predictions_of

BATCHES = (1, 8, 64, 512)
"""Rows a call."""

N_ROUNDS = 41
"""In each, every variant is timed in turn, so that what slows the machine down for a while slows all of them."""

TURN_S = 0.01
MOST_CALLS = 60
"""A variant's turn in a round lasts about so long and has no more calls than that, and always one."""

CONFIDENCE = 0.99
"""Of a speed-up's interval: of a variant that is as quick as its parent, at most 1 in 50 seems quicker at some size."""

N_ALONE = 256
"""Test rows that are predicted alone and in batches."""


@dataclass(frozen=True)
class Speed:
    """With batches of one size, on one thread."""

    batch: int
    """Rows."""
    p50_ms: float
    p99_ms: float
    rows_per_second: float
    """The median over the rounds."""
    speedup: float
    """How many times as quick as the parent: the median over the rounds of the ratio of medians."""
    interval: Interval
    """Of the speed-up, with `CONFIDENCE`."""


@dataclass(frozen=True)
class Scoring:
    """What an engine makes of the held-out rows."""

    quality: Quality
    """On the held-out rows."""
    minimum: float
    maximum: float
    """The least and the greatest score of these."""
    difference: float
    """Largest absolute difference of a score from the parent's."""
    batch_difference: float
    """Largest absolute difference of a score between alone and in batches."""


@dataclass(frozen=True)
class Figures(Scoring):
    """All of a variant, or of the parent."""

    speeds: list[Speed]
    n_bytes: int
    """Of the model file."""
    memory_bytes: int
    """By which a process grows that loads the model and runs it at each size."""


def measure(
    models: Mapping[str, bytes], parent: str, test: Dataset, threshold: float, tell: Callable[[str], None]
) -> dict[str, Figures]:
    """The figures of each of `models`, by name, on the `test` rows; `parent` is the name of the one to compare with.

    threshold: the working threshold. tell: hears what is being done. Raises what the engine does for a model that it
    cannot run.
    """
    runtimes = {name: opened(model) for name, model in models.items()}
    tell("Scoring the held-out rows")
    of_parent = scores(runtimes[parent], test.X)
    scored = {name: scoring(runtime, of_parent, test, threshold) for name, runtime in runtimes.items()}
    quick = speeds(runtimes, parent, test.X, tell)
    tell("Measuring memory")
    return {
        name: Figures(
            **vars(scored[name]),
            speeds=quick[name],
            n_bytes=len(model),
            memory_bytes=memory(model, test.X.shape[1]),
        )
        for name, model in models.items()
    }


def opened(model: bytes) -> Runtime:
    """The model as it is served on a CPU, on one thread."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, MODEL_FILE).write_bytes(model)
        return open_runtime(Path(folder))


def scoring(runtime: Runtime, of_parent: Scores, test: Dataset, threshold: float) -> Scoring:
    """What `runtime` makes of the `test` rows, of which the parent's scores (n,) are given."""
    found = scores(runtime, test.X)
    # Low, middling and high ones.
    some = test.X[np.argsort(of_parent)[np.linspace(0, len(test) - 1, min(N_ALONE, len(test))).astype(np.intp)]]
    return Scoring(
        quality=quality(test, found, threshold),
        minimum=float(found.min()),
        maximum=float(found.max()),
        difference=float(np.abs(found - of_parent).max()),
        batch_difference=batch_difference(runtime, some),
    )


def scores(runtime: Runtime, X: Array) -> Scores:
    """The score (n,) of each row of X (n, n_features)."""
    return predictions_of(runtime, X)[:, 0].astype(np.float64)


def batch_difference(runtime: Runtime, X: Array) -> float:
    """Most by which a prediction for a row of X differs between the row alone and batches of each size, and of all."""
    alone = np.concatenate([runtime.run(row[np.newaxis]) for row in X])
    return max(
        float(np.abs(runtime.run(X[start : start + size]) - alone[start : start + size]).max())
        for size in {*BATCHES, len(X)}
        for start in range(0, len(X), size)
    )


def speeds(
    runtimes: Mapping[str, Runtime], parent: str, X: Array, tell: Callable[[str], None]
) -> dict[str, list[Speed]]:
    """The speed of each of `runtimes` with batches of rows of X, of each size in `BATCHES`."""
    found: dict[str, list[Speed]] = {name: [] for name in runtimes}
    for batch in BATCHES:
        tell(f"Timing batches of {batch}")
        rounds = {name: np.array(seconds) for name, seconds in _rounds(runtimes, X, batch).items()}
        medians = {name: np.median(seconds, axis=1) for name, seconds in rounds.items()}
        for name, seconds in rounds.items():
            speedup, interval = median(medians[parent] / medians[name])
            p50_ms, p99_ms = (np.quantile(seconds, (0.5, 0.99)) * 1000).tolist()
            per_second = float(np.median(batch / seconds.mean(axis=1)))
            found[name].append(Speed(batch, p50_ms, p99_ms, per_second, speedup, interval))
    return found


def median(values: NDArray[np.float64]) -> tuple[float, Interval]:
    """The median of `values` (n,), and its interval with `CONFIDENCE`, from one of them to another.

    As many of the values as a fair coin falls heads are below the true median, whatever they are distributed like
    (Conover, Practical Nonparametric Statistics, 1999, section 3.2).
    """
    ranked = np.sort(values)
    below = max(int(binom.ppf((1 - CONFIDENCE) / 2, len(values), 0.5)) - 1, 0)
    return float(np.median(values)), (float(ranked[below]), float(ranked[-1 - below]))


def _rounds(runtimes: Mapping[str, Runtime], X: Array, batch: int) -> dict[str, list[list[float]]]:
    """Of each of `runtimes` the seconds of each call, by round."""
    n_batches = max(len(X) // batch, 1)
    batches = cycle([np.resize(X[i * batch : (i + 1) * batch], (batch, X.shape[1])) for i in range(n_batches)])
    slowest = max(min(_calls(runtime, batches, 3)) for runtime in runtimes.values())
    n_calls = int(np.clip(TURN_S / slowest, 1, MOST_CALLS))
    found: dict[str, list[list[float]]] = {name: [] for name in runtimes}
    order = np.random.default_rng(0)  # nobody always comes after the same one
    for _ in range(N_ROUNDS):
        for name in order.permutation(list(runtimes)).tolist():
            found[name].append(_calls(runtimes[name], batches, n_calls))
    return found


def _calls(runtime: Runtime, batches: Iterator[Array], n_calls: int) -> list[float]:
    runtime.run(next(batches))  # the model before it has filled the caches
    seconds = []
    for X in (next(batches) for _ in range(n_calls)):
        started = time.perf_counter()
        runtime.run(X)
        seconds.append(time.perf_counter() - started)
    return seconds


def memory(model: bytes, n_features: int) -> int:
    """Bytes by which a process of its own grows that loads `model` and runs it with batches of each size."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, MODEL_FILE).write_bytes(model)
        command = [sys.executable, "-m", "causeway.optimise.growth", folder, str(n_features), *map(str, BATCHES)]
        return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
