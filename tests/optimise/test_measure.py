"""What is measured of a variant: differences in company, speed beside the parent's, memory."""

from __future__ import annotations

import numpy as np
import pytest

from causeway.optimise import measure
from tests import tiny
from tests.optimise import nets


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "N_ROUNDS", 11)
    monkeypatch.setattr(measure, "BATCHES", (1, 16))


def nothing(what: str) -> None:
    """Whom nobody tells anything."""


def test_a_model_that_looks_at_its_neighbours_is_found_out() -> None:
    honest, dependent = (measure.opened(model) for model in (tiny.scaled(1), tiny.LESS_THE_MEAN))
    assert measure.batch_difference(honest, tiny.X[:40]) == 0
    assert measure.batch_difference(dependent, tiny.X[:40]) > 0.1


def test_a_dear_model_is_slower_than_its_parent_and_the_parent_as_quick_as_itself() -> None:
    runtimes = {name: measure.opened(model) for name, model in (("cheap", tiny.scaled(1)), ("dear", tiny.dear(64)))}
    speeds = measure.speeds(runtimes, "cheap", tiny.X, nothing)
    assert [speed.batch for speed in speeds["dear"]] == [1, 16]
    for cheap, dear in zip(speeds["cheap"], speeds["dear"], strict=True):
        assert (cheap.speedup, cheap.interval) == (1, (1, 1))
        assert dear.interval[1] < 1
        assert dear.rows_per_second < cheap.rows_per_second
        assert 0 < dear.p50_ms <= dear.p99_ms


def test_the_interval_of_a_median_is_between_ranks_that_a_fair_coin_rarely_passes() -> None:
    median, (low, high) = measure.median(np.arange(41.0))
    assert median == 20
    # P(at most 11 heads in 41 throws) = 0.0022, P(at most 12) = 0.0058.
    assert (low, high) == (11, 29)


def test_the_interval_of_few_values_is_all_of_them() -> None:
    assert measure.median(np.array([3.0, 1.0, 2.0])) == (2.0, (1.0, 3.0))


def test_a_large_model_takes_more_memory() -> None:
    wide = 2_000_000
    large = nets.network(
        [("Gemm", "normal w1 b1", "units"), ("Gemm", "units w2 b2", "updated")],
        w1=(nets.N_MAIN, wide // nets.N_MAIN),
        b1=(wide // nets.N_MAIN,),
        w2=(wide // nets.N_MAIN, nets.N_MAIN),
        b2=(nets.N_MAIN,),
    )
    grown = [measure.memory(model, nets.N_FEATURES) for model in (nets.PLAIN, large)]
    assert grown[1] - grown[0] > 4 * wide
