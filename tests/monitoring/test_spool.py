"""What a worker appended is read as it was, and a frame that was cut off takes nothing else with it."""

import fcntl
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from causeway.monitoring import spool
from causeway.monitoring.spool import Frame, Segment, Spool, segments
from tests.conftest import ROOT, wait_until


def read(segment: Segment) -> list[Frame]:
    """All frames that can be read now."""
    frames, position = [], 0
    while (frame := segment.read(position)) is not None:
        frames.append(frame)
        position = frame.end
    return frames


def only(folder: Path) -> Segment:
    (path,) = segments(folder)
    return Segment(path)


@given(payloads=st.lists(st.lists(st.binary(max_size=300), max_size=3), max_size=20))
def test_what_was_appended_is_read(payloads: list[list[bytes]], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("spool")
    writer = Spool(folder)
    for n, payload in enumerate(payloads):
        writer.append(payload, n, float(n))
    frames = [
        (frame.payload, frame.n_rows, frame.written) for path in segments(folder) for frame in read(Segment(path))
    ]
    assert frames == [(b"".join(payload), n, n) for n, payload in enumerate(payloads)]
    writer.close()


def test_a_frame_cut_off_at_any_byte_is_awaited_while_its_writer_lives_and_lost_alone_after_that(
    tmp_path: Path,
) -> None:
    writer = Spool(tmp_path)
    writer.append([b"before"], 1, 0.0)
    whole = next(segments(tmp_path)).stat().st_size
    writer.append([b"cut off"], 2, 1.0)
    writer.close()
    (path,) = segments(tmp_path)
    data = path.read_bytes()
    for n_bytes in range(whole + 1, len(data)):
        path.write_bytes(data[:n_bytes])
        with path.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            segment = Segment(path)
            assert [frame.payload for frame in read(segment)] == [b"before"]
        assert [(frame.payload, frame.end) for frame in read(segment)] == [(b"before", whole), (None, n_bytes)]
        segment.close()


def test_a_damaged_frame_is_lost_alone(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    ends = []
    for payload in (b"first", b"second", b"third"):
        writer.append([payload], 1, 0.0)
        ends.append(next(segments(tmp_path)).stat().st_size)
    writer.close()
    (path,) = segments(tmp_path)
    data = bytearray(path.read_bytes())
    data[ends[1] - 1] ^= 1
    path.write_bytes(data)
    assert [frame.payload for frame in read(only(tmp_path))] == [b"first", None, b"third"]


def test_what_is_no_frame_ends_a_segment(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    writer.append([b"before"], 1, 0.0)
    writer.close()
    (path,) = segments(tmp_path)
    with path.open("ab") as file:
        file.write(bytes(4096))  # as a file system leaves it after a power failure
    assert [frame.payload for frame in read(only(tmp_path))] == [b"before", None]


def test_frames_of_another_release_are_skipped_and_their_rows_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = Spool(tmp_path)
    monkeypatch.setattr(spool, "MAGIC", b"CWS\xff")
    writer.append([b"of tomorrow"], 7, 0.0)
    monkeypatch.undo()
    writer.append([b"of today"], 1, 0.0)
    assert [(frame.payload, frame.n_rows) for frame in read(only(tmp_path))] == [(None, 7), (b"of today", 1)]
    writer.close()


def test_a_large_or_old_segment_is_left_for_another(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    writer.append([bytes(spool.SEGMENT_BYTES)], 1, 0.0)
    writer.append([b"small"], 1, 1.0)
    assert [Segment(path).is_left for path in segments(tmp_path)] == [True, False]
    writer.tend(1.0 + spool.SEGMENT_S)
    assert [Segment(path).is_left for path in segments(tmp_path)] == [True, True]


def test_a_folder_that_somebody_removed_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    writer = Spool(folder)
    writer.append([b"lost"], 1, 0.0)
    only(folder).remove()
    folder.rmdir()
    writer.append([b"kept"], 1, 0.0)
    assert [frame.payload for frame in read(only(folder))] == [b"kept"]
    writer.close()


WRITER = """
import sys, time
from pathlib import Path
from causeway.monitoring.spool import Spool
spool, n = Spool(Path(sys.argv[1])), 0
while n < 2_000:
    spool.append([b"%d;" % n * 20_000], 1, 0.0)
    n += 1
    if n == 20:
        print("writing", flush=True)
time.sleep(1000)
"""


def test_of_a_writer_that_is_killed_all_whole_frames_are_read(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        wait_until(lambda: not Segment(list(segments(tmp_path))[-1]).is_left, "the segment that is being written")
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    frames = []
    for path in segments(tmp_path):
        segment = Segment(path)
        assert segment.is_left
        frames += read(segment)
    whole = [frame.payload for frame in frames if frame.payload is not None]
    assert len(whole) >= 20
    assert whole == [b"%d;" % n * 20_000 for n in range(len(whole))]
    assert len(frames) - len(whole) <= 1


def test_a_frame_for_which_the_disk_has_no_room_leaves_no_trace(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    writer.append([b"before"], 1, 0.0)
    (path,) = segments(tmp_path)
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 100, hard))
    try:
        with pytest.raises(OSError, match="No space left"):
            writer.append([bytes(1000)], 1, 0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    writer.append([b"after"], 1, 0.0)
    assert [frame.payload for frame in read(Segment(path))] == [b"before", b"after"]
    writer.close()


def test_what_no_worker_named_is_no_segment(tmp_path: Path) -> None:
    for name in ("notes.spool", "a-b-c.spool", "1-2.spool", ".000000000001-1-0123456789abcdef.spool"):
        (tmp_path / name).touch()
    assert list(segments(tmp_path)) == []


def test_what_has_the_name_of_a_segment_and_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe, loop = (tmp_path / f"00000000000{n}-1-0123456789abcdef.spool" for n in range(2))
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path in (pipe, loop):
        with pytest.raises(OSError, match=r"no regular file|symbolic links"):
            Segment(path)
    assert spool.n_bytes(tmp_path) == loop.lstat().st_size


def test_a_clock_that_steps_back_does_not_keep_a_segment(tmp_path: Path) -> None:
    writer = Spool(tmp_path)
    writer.append([b"tomorrow"], 1, 1e6)
    writer.append([b"today"], 1, 1e6 - spool.SEGMENT_S)
    assert sorted(Segment(path).is_left for path in segments(tmp_path)) == [False, True]
    writer.close()
