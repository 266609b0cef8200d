"""How long, how often and how much: the numbers of a run, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """What a run of the benchmark does; the defaults are those of `make bench`."""

    rounds: int = 3
    """Rounds of every scenario that compares."""

    run_s: int = 3
    """Seconds of one contestant at one load in one round."""

    warm_up_s: int = 2
    """Seconds of load, not counted, that each server gets before its first round."""

    connections: tuple[int, ...] = (16, 64, 512)
    """Connections of wrk in `one_row`, each with one request in flight."""

    many_rows: int = 1_000
    """Rows in one body in `thousand_rows`."""

    many_run_s: int = 2
    """Seconds of one contestant in one round of `thousand_rows`."""

    many_connections: int = 4
    """Connections of wrk in `thousand_rows`."""

    dear_trees: int = 2_048
    """Trees of the dear model, each of about 250 leaves; a power of two, so that ONNX Runtime's sum of float32 votes is
    exact."""

    dear_connections: int = 64
    """Connections of wrk on the dear model and in `two_workers`."""

    engine_batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    """Batch sizes among which the engine's best is looked for."""

    overload_factor: float = 2.0
    """Offered load of `overload`, in multiples of what the service answered in a closed loop just before."""

    overload_s: float = 8.0
    """Seconds of open-loop load that count, after `warm_up_s` that do not."""

    overload_rounds: int = 2
    """Times that `overload` measures the capacity and then offers its multiple."""

    overload_connections: int = 8_000
    """Most connections of the open-loop generator; a request that finds none is counted as not sent."""

    deadline_ms: float = 200.0
    """X-Timeout-Ms in `overload`."""

    hang_up_clients: int = 1_000
    """Clients of `hang_up` that send one row each and close."""

    hang_up_rounds: int = 2
    """Times that these clients come, each time after as many that wait for their answer."""

    seed: int = 0
    """Seed of data, training, the order of contestants and the arrivals of `overload`."""


FULL = Plan()
QUICK = Plan(
    rounds=1,
    run_s=1,
    many_run_s=1,
    warm_up_s=0,
    connections=(16,),
    dear_trees=128,
    engine_batches=(1, 8, 64),
    overload_s=2.0,
    overload_rounds=1,
    hang_up_clients=100,
    hang_up_rounds=1,
)
"""A smoke run: everything happens once, and no figure means anything."""
