"""A keeper that cannot keep up writes a sample that is new; one that can writes everything."""

from pathlib import Path

import pytest

from causeway.monitoring.sampling import Sampling, tell, told

ROW_BYTES = 150


class Simulated:
    """A keeper that can write so many requests a second, while so many arrive; time is counted in half seconds."""

    def __init__(self, can_write: float) -> None:
        self.can_write = can_write
        self.sampling = Sampling(0.0)
        self.waiting: list[tuple[float, float]] = []  # when they came, and how many of what was noted
        self.written = 0.0
        self.now = 0.0
        self.ages: list[float] = []

    def run(self, seconds: float, arriving: float, *, is_database_up: bool = True) -> None:
        ends = self.now + seconds
        while self.now < ends:
            self.now += 0.5
            self.waiting.append((self.now, arriving / 2))
            if is_database_up:
                self._round()
            else:
                self.sampling.interrupted(self.now)

    def _round(self) -> None:
        room, self.ages = self.can_write / 2, [*self.ages, self.now - self.waiting[0][0]]
        self.sampling.observe(self.ages[-1], int(ROW_BYTES * sum(n for _, n in self.waiting)), self.now)
        while self.waiting and room > 0:
            came, n = self.waiting[0]
            wanted = min(n / self.sampling.factor, room)
            self.written += wanted
            room -= wanted
            left = n - wanted * self.sampling.factor
            self.waiting[0] = (came, left)
            if left < 1:
                self.waiting.pop(0)


def test_a_keeper_that_can_keep_up_writes_everything() -> None:
    keeper = Simulated(can_write=20_000)
    keeper.run(60, arriving=10_000)
    assert keeper.written == pytest.approx(600_000)


def test_a_starved_keeper_writes_a_sample_that_is_new() -> None:
    keeper = Simulated(can_write=300)
    keeper.run(60, arriving=100)
    keeper.run(3600, arriving=15_000)
    assert max(keeper.ages) <= 15
    assert sorted(keeper.ages)[len(keeper.ages) // 2] <= 4
    assert keeper.written > 3600 * 300 / 3  # not far below what it could


def test_a_keeper_that_gets_time_again_writes_everything_again() -> None:
    keeper = Simulated(can_write=300)
    keeper.run(60, arriving=15_000)
    assert keeper.sampling.factor > 16
    keeper.run(200, arriving=100)
    assert keeper.sampling.factor == 1


def test_what_gathered_while_the_database_was_away_is_written_whole() -> None:
    keeper = Simulated(can_write=20_000)
    keeper.run(10, arriving=5_000)
    keeper.run(60, arriving=5_000, is_database_up=False)
    keeper.run(60, arriving=5_000)
    assert keeper.written == pytest.approx(130 * 5_000)
    assert keeper.ages[-1] == 0


def test_a_keeper_that_would_never_catch_up_samples_all_the_same() -> None:
    keeper = Simulated(can_write=2_000)
    keeper.run(60, arriving=5_000, is_database_up=False)
    keeper.run(300, arriving=5_000)
    assert keeper.ages[-1] <= 15


def test_what_the_keeper_tells_the_recorders_know(tmp_path: Path) -> None:
    assert told(tmp_path) == 1
    tell(tmp_path, 8)
    assert told(tmp_path) == 8
    tell(tmp_path / "nowhere", 8)
