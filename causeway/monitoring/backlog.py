"""What waits in a server's spool folder: its segments, and how far the database has each of them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from causeway.monitoring.batch import Prediction, RefusedValue, unpack
from causeway.monitoring.spool import Frame, Segment, segments

OPEN = 128
"""Segments that are open at once, of those that nobody writes to any more: a process may open 1024 files or so."""

READ_ROWS = 8
"""How many rows that are read and left out take as long as one that is written."""


@dataclass
class Taken:
    """What was read at once."""

    predictions: list[Prediction] = field(default_factory=list)
    refused: Counter[RefusedValue] = field(default_factory=Counter)
    ends: dict[str, int] = field(default_factory=dict)
    """How far the segments were read."""
    n_rows: int = 0
    """Of the predictions."""
    sampled: int = 0
    """Rows that were left out because the sampling wants less."""
    unreadable: int = 0
    """Rows that nobody can read."""
    oldest: float = float("inf")
    """When the oldest frame was written, in seconds since 1970."""
    is_all: bool = True
    """Whether there was no more."""

    @property
    def weight(self) -> int:
        """What it costs to read and write it, in rows that are written."""
        return self.n_rows + self.sampled // READ_ROWS


class Backlog:
    """Of one server, in `folder`; the reader must be its only one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._segments: dict[str, Segment] = {}
        self._positions: dict[str, int] = {}

    def look(self) -> list[str]:
        """Finds what is new, and returns the segments of which nobody has said how far they were read."""
        n_left = sum(segment.is_left for segment in self._segments.values())
        for path in segments(self.folder):
            if path.stem not in self._segments and n_left < OPEN:
                with suppress(OSError):  # removed, or nothing that a worker wrote
                    self._segments[path.stem] = Segment(path)
                    n_left += self._segments[path.stem].is_left
        return [name for name in self._segments if name not in self._positions]

    def learn(self, positions: Mapping[str, int]) -> None:
        """Says how far the segments were read."""
        self._positions.update(positions)

    def forget(self) -> None:
        """It is not certain any more how far they were read."""
        self._positions.clear()

    def positions(self) -> Mapping[str, int]:
        """How far each segment was read."""
        return self._positions

    @property
    def n_bytes(self) -> int:
        """What waits."""
        return sum(segment.n_bytes - self._positions.get(name, 0) for name, segment in self._segments.items())

    def take(self, n_rows: int, factor: int, rng: Random) -> Taken:
        """The next frames, with about `n_rows` rows: one of `factor` is kept. `advance` goes past them."""
        taken = Taken()
        for name, frame in self._frames():
            taken.ends[name] = frame.end
            taken.oldest = min(taken.oldest, frame.written)
            _add(taken, frame, factor, rng)
            if taken.weight >= n_rows:
                taken.is_all = False
                break
        return taken

    def advance(self, ends: Mapping[str, int]) -> list[str]:
        """Goes on from there, and removes the segments that are read to their end; returns those."""
        self._positions.update(ends)
        over = [name for name, segment in self._segments.items() if self._is_over(name, segment)]
        for name in over:
            self._segments.pop(name).remove()
            del self._positions[name]
        return over

    def close(self) -> None:
        """Lets go of the files."""
        for segment in self._segments.values():
            segment.close()
        self._segments.clear()

    @property
    def is_empty(self) -> bool:
        """Whether there are no segments."""
        return not any(segments(self.folder))

    @property
    def is_written(self) -> bool:
        """Whether there is a worker that writes to a segment, and may write more."""
        return not all(segment.is_left for segment in self._segments.values())

    def _is_over(self, name: str, segment: Segment) -> bool:
        return segment.is_left and self._positions.get(name, -1) >= segment.n_bytes

    def _frames(self) -> Iterator[tuple[str, Frame]]:
        """A frame of each writer in turn, so that no worker waits for another; its oldest first."""
        by_writer: defaultdict[str, list[Segment]] = defaultdict(list)
        for segment in self._segments.values():
            by_writer[segment.writer].append(segment)
        waiting = [self._frames_of(written) for written in by_writer.values()]
        while waiting:
            for frames in list(waiting):
                found = next(frames, None)
                if found is None:
                    waiting.remove(frames)
                else:
                    yield found

    def _frames_of(self, written: Sequence[Segment]) -> Iterator[tuple[str, Frame]]:
        for segment in written:
            position = self._positions[segment.name]
            while (frame := segment.read(position)) is not None:
                yield segment.name, frame
                position = frame.end


def _add(taken: Taken, frame: Frame, factor: int, rng: Random) -> None:
    try:
        if frame.payload is None:
            raise ValueError("not a frame of ours")
        batch = unpack(frame.payload).thinned(factor, rng)
    except Exception:  # whatever is wrong with it, it must not stay before all that comes after
        taken.unreadable += frame.n_rows
        return
    n_rows = sum(len(prediction.X) for prediction in batch.predictions)
    taken.predictions += batch.predictions
    taken.refused.update(batch.refused)
    taken.n_rows += n_rows
    taken.sampled += frame.n_rows - n_rows
