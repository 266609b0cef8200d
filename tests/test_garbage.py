"""Reference cycles go while there is nothing else to do."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from causeway import garbage


class Cycle:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def _without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def left(n: int) -> list[weakref.ref[Cycle]]:
    """So many cycles that nobody holds."""
    return [weakref.ref(Cycle()) for _ in range(n)]


@pytest.mark.parametrize(("busy", "collected"), [(0.0, True), (garbage.IDLE, False), (1.0, False)])
def test_garbage_is_looked_for_while_there_is_nothing_to_do(busy: float, collected: bool) -> None:
    cycles = left(garbage.FEW_OBJECTS + 1)
    garbage.tidy(busy)
    assert (cycles[0]() is None) == collected


def test_a_little_is_left() -> None:
    cycles = left(10)
    garbage.tidy(0.0)
    assert cycles[0]() is not None


def test_what_survived_a_small_collection_is_looked_for() -> None:
    cycle = Cycle()
    seen = weakref.ref(cycle)
    for _ in range(2):
        gc.collect(0)
    del cycle
    garbage.tidy(0.0)
    assert seen() is None
