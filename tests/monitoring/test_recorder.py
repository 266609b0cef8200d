"""What is noted gets to the spool as it was, in time, or is counted; and nothing that fails there is felt."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from causeway.monitoring import batch, keeper_process, recorder, sampling
from causeway.monitoring.backlog import Backlog, Taken
from causeway.monitoring.batch import PINNED, Answer, Columns, RefusedValue, sample, unpack
from causeway.monitoring.recorder import Recorder
from tests.conftest import wait_until

CHAMPION = ("champion", "tiny:a")
RNG = np.random.default_rng(0)


class LeftOut(Counter[str]):
    """What a recorder told about rows that it left out, and how many requests it told about."""

    n_predicted = 0

    def predicted(self, variants: Sequence[tuple[str, str]], numbers: NDArray[np.float64]) -> None:
        assert numbers.shape == (len(variants), 6)
        self.n_predicted += len(variants)

    def left_out(self, reason: str, n_rows: int) -> None:
        self[reason] += n_rows


Noted = tuple[str, float, float, Answer, str | None]
"""What is noted of a request: its id, when it began, how long it took, its answer and its trace id."""


def packed(
    noted: Sequence[Noted], refused: Mapping[RefusedValue, int] | None = None, *, factor: int, clock: float
) -> bytes:
    columns = Columns()
    for request_id, _, _, answer, trace_id in noted:
        columns.add(request_id, answer, trace_id)
    numbers = [(started, seconds, *answer[-1]) for _, started, seconds, answer, _ in noted]
    return b"".join(columns.pack(np.array(numbers, dtype=np.float64), refused or {}, factor=factor, clock=clock))


def record(request_id: str, n_rows: int = 1, width: int = 3) -> Noted:
    X = RNG.normal(size=(n_rows, width)).astype(np.float32)
    scores = RNG.random((n_rows, 1)).astype(np.float32)
    return (request_id, time.perf_counter(), 1e-3, (X, scores, CHAMPION, False, None, (1e-5, 2e-5, 3e-5, 4e-5)), None)


def everything(folder: Path) -> Taken:
    """All that is in a spool."""
    backlog = Backlog(folder)
    backlog.learn(dict.fromkeys(backlog.look(), 0))
    taken = backlog.take(10**9, 1, Random(0))
    backlog.close()
    return taken


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A spool whose keeper this process is: none is started."""
    lock = keeper_process.take(tmp_path / "spool")
    assert lock is not None
    yield tmp_path / "spool"
    os.close(lock)


@pytest.fixture
def left_out() -> LeftOut:
    return LeftOut()


@given(
    st.lists(
        st.tuples(
            st.text("!~azAZ", min_size=1, max_size=128),
            st.floats(0, 1e6),
            st.sampled_from([CHAMPION, ("canary", "tiny:b")]),
            st.integers(1, 5),
            st.booleans(),
            st.none() | st.just("a key"),
            st.none() | st.just("0af7651916cd43dd8448eb211c80319c"),
        )
    ),
    st.sampled_from([30, batch.LARGE_BYTES]),
)
def test_what_is_unpacked_is_what_was_packed(
    given: list[tuple[str, float, tuple[str, str], int, bool, str, str]], large_bytes: int
) -> None:
    records = [
        (
            request_id,
            started,
            1.5,
            (
                RNG.normal(size=(n_rows, 3 if variant == CHAMPION else 2)).astype(np.float32),
                np.full((n_rows, 1), np.nan, np.float32),
                variant,
                is_pinned,
                key,
                (0.0, 1e-6, 1e-3, 1.0),
            ),
            trace,
        )
        for request_id, started, variant, n_rows, is_pinned, key, trace in given
    ]
    refused = {("tiny:a", "x", "missing"): 2}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batch, "LARGE_BYTES", large_bytes)
        unpacked = unpack(packed(records, refused, factor=4, clock=1e9))
    assert (unpacked.refused, unpacked.factor) == (refused, 4)
    for prediction, expected in zip(unpacked.predictions, records, strict=True):
        request_id, started, latency, (X, scores, (role, tag), is_pinned, key, seconds), trace = expected
        assert prediction[:4] == (request_id, 1e9 + started, PINNED if is_pinned else role, tag)
        assert prediction.seconds == (latency, *seconds)
        assert (prediction.routing_key, prediction.trace_id) == (key, trace)
        np.testing.assert_array_equal(prediction.X, X, strict=True)
        np.testing.assert_array_equal(prediction.predictions, scores, strict=True)


def test_large_features_are_not_copied() -> None:
    columns = Columns()
    noted = [record(request_id, n_rows) for request_id, n_rows in (("a", 1), ("b", 20_000), ("c", 1))]
    for request_id, _, _, answer, trace_id in noted:
        columns.add(request_id, answer, trace_id)
    pieces = columns.pack(np.zeros((3, 6)), {}, factor=1, clock=0.0)
    assert sum(np.shares_memory(np.frombuffer(piece, np.uint8), noted[1][3][0]) for piece in pieces) == 1
    assert len(unpack(b"".join(pieces)).predictions[1].X) == 20_000
    assert columns.n_bytes == 20_002 * 3 * 4


def test_what_is_noted_is_in_the_spool_when_the_recorder_is_closed(folder: Path, left_out: LeftOut) -> None:
    recording = Recorder(folder, left_out)
    recording.start()
    records = [record(str(n), n_rows=1 + n % 3) for n in range(1000)]
    before = time.time()
    for each in records:
        recording.note(*each)
    recording.refused_value("tiny:a", "x", "out_of_range")
    recording.close()
    taken = everything(folder)
    assert [each.request_id for each in taken.predictions] == [str(n) for n in range(1000)]
    for each, expected in zip(taken.predictions, records, strict=True):
        np.testing.assert_array_equal(each.X, expected[3][0])
        assert abs(each.time - before) < 60
    assert taken.refused == {("tiny:a", "x", "out_of_range"): 1}
    assert left_out == {}


def test_what_is_flushed_is_written_soon(folder: Path, left_out: LeftOut) -> None:
    recording = Recorder(folder, left_out)
    recording.start()
    recording.flush()
    recording.note(*record("a"))
    recording.flush()
    wait_until(lambda: [each.request_id for each in everything(folder).predictions] == ["a"], "the frame")
    recording.close()


def test_a_large_request_is_not_kept_waiting(folder: Path, left_out: LeftOut) -> None:
    recording = Recorder(folder, left_out)
    recording.start()
    recording.note(*record("large", n_rows=10_000))
    wait_until(lambda: [len(each.X) for each in everything(folder).predictions] == [10_000], "the frame")
    recording.close()


def test_what_the_keeper_samples_is_left_out_and_counted(
    folder: Path, left_out: LeftOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "LOOK_S", 0.0)
    sampling.tell(folder, 4)
    recording = Recorder(folder, left_out)
    recording.start()
    wait_until(lambda: recording._writer.factor == 4, "the factor")
    recording.flush()
    for n in range(1002):
        request_id, started, _, answer, trace_id = record(str(n))
        recording.note(request_id, started, 1e-3 * n, answer, trace_id)
        recording.refused_value("tiny:a", "x", "missing")
    recording.close()
    taken = everything(folder)
    assert len(taken.predictions) in (250, 251)
    assert left_out == {"sampled": 1002 - len(taken.predictions)}
    assert left_out.n_predicted == 1002
    places = [int(each.request_id) for each in taken.predictions]
    assert [place // 4 for place in places] == list(range(len(places)))  # one of each four
    assert len({place % 4 for place in places}) == 4
    for each in taken.predictions:
        assert each.seconds.latency == pytest.approx(1e-3 * int(each.request_id))
    assert 150 < taken.refused["tiny:a", "x", "missing"] < 350


@given(n=st.integers(0, 300), factor=st.integers(1, 300), seed=st.integers())
def test_a_sample_has_the_size_that_its_share_says(n: int, factor: int, seed: int) -> None:
    drawn = sample(range(n), 1 / factor, Random(seed))
    assert len(set(drawn)) == len(drawn)
    assert len(drawn) in (n // factor, n // factor + 1)


def test_each_of_a_sample_had_the_same_chance() -> None:
    rng, n_times = Random(0), 4000
    drawn = Counter(item for _ in range(n_times) for item in sample(range(10), 1 / 4, rng))
    assert sorted(drawn) == list(range(10))
    assert all(abs(n - n_times / 4) < 5 * (n_times * 3 / 16) ** 0.5 for n in drawn.values())


def test_a_spool_that_cannot_be_written_is_not_felt(tmp_path: Path, left_out: LeftOut) -> None:
    (tmp_path / "file").write_bytes(b"")
    recording = Recorder(tmp_path / "file" / "spool", left_out)
    recording.start()
    for n in range(1000):
        recording.note(*record(str(n)))
    recording.close()
    assert left_out == {"disk": 1000}


def test_a_full_spool_takes_nothing_until_it_has_drained(
    folder: Path, left_out: LeftOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "LOOK_S", 0.0)
    monkeypatch.setattr(recorder, "SPOOL_BYTES", 1000)
    recording = Recorder(folder, left_out)
    recording.start()
    recording.note(*record("first", n_rows=100))
    recording.flush()
    wait_until(lambda: recording._writer.full() == "backlog", "a full spool")
    recording.note(*record("second"))
    recording.flush()
    assert left_out == {"backlog": 1}
    for segment in folder.glob("*.spool"):
        segment.unlink()
    wait_until(lambda: recording._writer.full() is None, "room in the spool")
    recording.note(*record("third"))
    recording.close()
    assert [each.request_id for each in everything(folder).predictions] == ["third"]


def test_what_waits_for_a_slow_disk_is_bounded(
    folder: Path, left_out: LeftOut, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "WAITING_BYTES", 1000)
    recording = Recorder(folder, left_out)  # not started: as if its thread were waiting for the disk
    for n in range(3):
        recording.note(*record(str(n), n_rows=1000))
        recording.flush()
    assert left_out == {"disk": 1000 + 1000}


def test_no_error_ends_the_thread(folder: Path, left_out: LeftOut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder, "LOOK_S", 0.0)
    recording = Recorder(folder, left_out)
    with monkeypatch.context() as broken:
        broken.setattr(sampling, "told", None)
        broken.setattr(recording._writer._spool, "append", None)
        recording.start()
        recording.note(*record("lost", n_rows=2))
        recording.flush()
        wait_until(lambda: left_out == {"disk": 2}, "the loss to be counted")
    recording.note(*record("a"))
    recording.close()
    assert [each.request_id for each in everything(folder).predictions] == ["a"]
