"""Which of several engines runs a version: the one that was quickest with its own samples, on this machine, now."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from causeway import errors
from causeway.contract import Array
from causeway.runtime import Candidate, Runtime

SIZES = (1, 64, 1024)
"""Batches that engines are compared with, in rows."""

N_RUNS = 5
"""Runs of each, of which the quickest counts."""

LONG_S = 0.5
"""A batch that would take longer, by the one before, is not run: it counts as so much longer as it has more rows."""

Accepted = TypeVar("Accepted")


@dataclass(frozen=True)
class Choice(Generic[Accepted]):
    """The engine that was chosen."""

    runtime: Runtime
    accepted: Accepted
    """What `accept` said of it."""
    figures: dict[str, tuple[float, ...] | str]
    """Of each engine, by name: seconds for batches of `SIZES`, or why it was left out; empty where there was one."""


def choose(candidates: Sequence[Candidate], accept: Callable[[Runtime], Accepted], X: Array) -> Choice[Accepted]:
    """The candidate with the least geometric mean of seconds for `SIZES` rows like X (n_rows, n_features).

    One that cannot be opened, or that `accept` raises about, is left out. Raises that where it is the only one. Where
    none is left, raises `DeviceLost` if that is what became of one, else `NoEngine` with all reasons.
    """
    if len(candidates) == 1:
        runtime = candidates[0].open()
        return Choice(runtime, accept(runtime), {})
    figures: dict[str, tuple[float, ...] | str] = {}
    fit: list[tuple[float, Runtime, Accepted]] = []
    lost: errors.DeviceLost | None = None
    for candidate in candidates:
        try:
            runtime, accepted, seconds = _tried(candidate, accept, X)
        except Exception as exc:
            figures[candidate.name] = f"left out: {exc}"
            lost = lost or (exc if isinstance(exc, errors.DeviceLost) else None)
        else:
            figures[candidate.name] = seconds
            fit.append((statistics.geometric_mean(seconds), runtime, accepted))
    if not fit and lost is not None:
        raise lost
    if not fit:
        raise errors.NoEngine("; ".join(f"{name} {reason}" for name, reason in figures.items()))
    fit.sort(key=lambda tried: tried[0])
    (_, runtime, accepted), *others = fit
    for _, other, _ in others:
        with suppress(Exception):  # of a device: the one that was chosen may be another
            other.close()
    return Choice(runtime, accepted, figures)


def seconds_by_size(runtime: Runtime, X: Array) -> tuple[float, ...]:
    """Seconds for batches of `SIZES` rows like X (n_rows, n_features)."""
    found: list[float] = []
    before = SIZES[0]
    for size in SIZES:
        expected = found[-1] * size / before if found else 0.0
        found.append(expected if expected > LONG_S else _least_seconds(runtime, np.resize(X, (size, X.shape[1]))))
        before = size
    return tuple(found)


def _least_seconds(runtime: Runtime, X: Array) -> float:
    """Of one run more than `N_RUNS`: the first may be a first one."""
    seconds = []
    for _ in range(1 + N_RUNS):
        started = time.perf_counter()
        runtime.run(X)
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _tried(
    candidate: Candidate, accept: Callable[[Runtime], Accepted], X: Array
) -> tuple[Runtime, Accepted, tuple[float, ...]]:
    runtime = candidate.open()
    try:
        return runtime, accept(runtime), seconds_by_size(runtime, X)
    except BaseException:
        with suppress(Exception):  # what came first tells more
            runtime.close()
        raise
