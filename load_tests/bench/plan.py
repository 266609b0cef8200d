"""How long, how often and how much: the numbers of a run, in one place."""

from __future__ import annotations

from dataclasses import dataclass

from load_tests.dear import TREES


@dataclass(frozen=True)
class Plan:
    """What a run of the benchmark does; the defaults are those of `make bench`."""

    rounds: int = 9
    """Rounds of `one_row` and `two_workers`: many and short, because a shared machine's speed changes by the second."""

    run_s: int = 1
    """Seconds of one contestant at one load in one of them."""

    slow_every: int = 3
    """Contestants that answer hundreds of requests a second take part in every third of these rounds."""

    slow_run_s: int = 3
    """Their seconds: enough for a p99."""

    few_rounds: int = 3
    """Rounds of the other scenarios."""

    warm_up_s: int = 2
    """Seconds of load, not counted, that each server gets before its first round."""

    connections: tuple[int, ...] = (16, 64, 512)
    """Connections of wrk in `one_row`, each with one request in flight."""

    slow_connections: tuple[int, ...] = (16, 64)
    """Those for the slow contestants: with more, an answer takes about as long as a run."""

    many_rows: int = 1_000
    """Rows in one body in `thousand_rows`."""

    many_run_s: int = 2
    """Seconds of one contestant in one round of `thousand_rows`."""

    many_connections: int = 4
    """Connections of wrk in `thousand_rows`."""

    some_connections: int = 64
    """Connections of wrk in `scraped`, `two_workers`, `dear`, and where `overload` measures the capacity."""

    monitored_rounds: int = 9
    """Rounds of `monitored`."""

    monitored_s: int = 4
    """Seconds of a run in it: long enough for what happens beside the requests to have begun."""

    monitored_connections: tuple[int, ...] = (16, 64)
    """Connections of wrk in it."""

    scraped_s: int = 5
    """Seconds of a run in `scraped`, with one question to /metrics in each."""

    large_body_bytes: int = 50_000_000
    """The body of `livez`."""

    dear_trees: int = TREES
    """Trees of the dear model."""

    dear_run_s: int = 6
    """Seconds of a run with it: what wrk leaves unanswered at the end, up to one batch, is little of it."""

    engine_batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256)
    """Batch sizes among which the engine's best for the dear model is looked for."""

    engine_s: float = 1.0
    """Seconds of the engine in process in one round."""

    overload_factor: float = 2.0
    """Offered load of `overload`, in multiples of what the service answered in a closed loop just before."""

    overload_s: float = 6.0
    """Seconds of open-loop load that count, after `warm_up_s` that do not."""

    overload_connections: int = 8_000
    """Most connections of the open-loop generator; a request that finds none is counted as not sent."""

    deadline_ms: float = 200.0
    """X-Timeout-Ms in `overload`."""

    brittle_trees: int = 5_000
    """Trees of the model in `poison`: some 50 us a row, so that 16 rows are not too many for a batch."""

    poison_groups: int = 100
    """Groups of 16 callers in `poison`."""

    hang_up_clients: int = 1_000
    """Clients of `hang_up` that send one row each and close."""

    swap_rounds: int = 50
    """Rounds of `swaps`: a second with a swap in it, and one without."""

    first_swaps: int = 5
    """Those after which memory is looked at for the first time."""

    two_workers_swaps: int = 5
    """Swaps of two workers in `swaps`."""

    checked_swaps: int = 50
    """Swaps in `swaps` while every answer is checked."""

    swap_connections: int = 16
    """Connections in `swaps`, and of wrk in `shadow`."""

    shadow_rounds: int = 5
    """Rounds of `shadow`."""

    shadow_factor: float = 0.3
    """Offered load of the open loop of `shadow`, in multiples of what the service answered in a closed loop before."""

    shadow_s: float = 2.0
    """Seconds of it, with the shadow and without."""

    seed: int = 0
    """Seed of data, training, the order of contestants and the arrivals of `overload` and `shadow`."""


FULL = Plan()
QUICK = Plan(
    rounds=1,
    slow_run_s=1,
    few_rounds=1,
    dear_run_s=1,
    many_run_s=1,
    warm_up_s=0,
    connections=(16,),
    slow_connections=(16,),
    monitored_rounds=1,
    monitored_s=1,
    monitored_connections=(16,),
    scraped_s=2,
    large_body_bytes=2_000_000,
    dear_trees=60_000,
    engine_batches=(1, 8, 64),
    engine_s=0.2,
    overload_s=2.0,
    poison_groups=5,
    hang_up_clients=100,
    swap_rounds=1,
    first_swaps=1,
    two_workers_swaps=1,
    checked_swaps=4,
    shadow_rounds=1,
    shadow_s=1.0,
)
"""A smoke run: everything happens once, and no figure means anything."""
