"""Files to which one worker appends, and which the keeper reads: what is in them survives both.

A file, or segment, is a row of frames: a head with the length, the CRC-32, the number of rows and the time, then the
payload. Its writer holds a lock on it until it begins another or ends, even by kill -9; so a reader can tell a frame
that is being written from one that never will be whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import stat
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from causeway.monitoring.batch import Payload

MAGIC = b"CWS\x02"
"""Begins a frame. The last byte is the form of the payload: a frame of another form is skipped as a whole."""

SEGMENT_BYTES = 8 * 2**20
"""A writer begins another segment once one is so large."""

SEGMENT_S = 3600.0
"""Or so old: `spool_positions` of segments are forgotten after `FORGOTTEN_S` (`causeway.monitoring.retention`)."""

_MAGIC = struct.Struct("<4sI")
_FACTS = struct.Struct("<IId")
_HEAD_BYTES = _MAGIC.size + _FACTS.size
_SUFFIX = ".spool"
_NAME = re.compile(rf"\d{{12,}}-\d+-[0-9a-f]{{16}}\{_SUFFIX}")


class Frame(NamedTuple):
    """What was appended at once."""

    payload: bytes | None
    """None where it cannot be read: torn, damaged, or of another release."""
    n_rows: int
    """Rows in it; where it is torn or damaged nobody knows, and it counts as one."""
    written: float
    """Seconds since 1970; infinite where nobody knows."""
    end: int
    """Where the next frame begins."""


class Spool:
    """The writer's end, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None
        self._n_bytes = 0
        self._began = 0.0

    def append(self, payload: Payload, n_rows: int, now: float) -> None:
        """Adds a frame, written at `now`. Raises `OSError`, with the segment as it was before."""
        self.tend(now)
        if self._descriptor is None:
            self._begin(now)
        assert self._descriptor is not None  # noqa: S101 - of our own state
        n_bytes = sum(map(len, payload))
        facts = _FACTS.pack(n_bytes, n_rows, now)
        checksum = zlib.crc32(facts)
        for piece in payload:
            checksum = zlib.crc32(piece, checksum)
        head = _MAGIC.pack(MAGIC, checksum) + facts
        written = 0
        try:
            written = os.writev(self._descriptor, (head, *payload))
            if written < len(head) + n_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            if written:
                self._take_back()
            raise
        self._n_bytes += written

    def tend(self, now: float) -> None:
        """Leaves a segment that is large or old, or that somebody removed, so that another is begun for what comes."""
        if self._descriptor is not None and (
            self._n_bytes >= SEGMENT_BYTES
            or abs(now - self._began) >= SEGMENT_S  # the clock may step back
            or not os.fstat(self._descriptor).st_nlink
        ):
            self.close()

    def close(self) -> None:
        """Leaves the segment to the reader."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _begin(self, now: float) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = f"{int(now):012d}-{os.getpid()}-{secrets.token_hex(8)}"
        # Locked before it has the name that readers look for: without a lock it would count as left.
        unnamed = self._folder / f".{name}"
        descriptor = os.open(unnamed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.replace(self._folder / f"{name}{_SUFFIX}")
        except OSError:
            os.close(descriptor)
            raise
        self._descriptor, self._n_bytes, self._began = descriptor, 0, now

    def _take_back(self) -> None:
        """Cuts off the part of a frame that was written; where even that fails the segment ends with it."""
        assert self._descriptor is not None  # noqa: S101
        try:
            os.ftruncate(self._descriptor, self._n_bytes)
        except OSError:
            self.close()


class Segment:
    """The reader's end of one file. Raises `OSError` where it cannot be opened or read, or is no file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem
        self.writer = self.name.split("-")[1]
        """Which of the workers wrote it."""
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            os.close(self._descriptor)
            raise OSError(errno.EINVAL, "no regular file", str(path))
        self._is_left = False

    @property
    def n_bytes(self) -> int:
        """How long the file is by now."""
        return os.fstat(self._descriptor).st_size

    @property
    def is_left(self) -> bool:
        """Whether nothing comes any more: its writer has gone, or writes to another."""
        if not self._is_left:
            with suppress(BlockingIOError):
                fcntl.flock(self._descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self._is_left = True
        return self._is_left

    def read(self, position: int) -> Frame | None:
        """The frame that begins at `position`; None where there is none, or not all of it yet."""
        is_left = self.is_left  # asked first: what is written after the answer is read all the same
        n_bytes = self.n_bytes
        if position >= n_bytes:
            return None
        head = os.pread(self._descriptor, _HEAD_BYTES, position)
        end = n_bytes
        if len(head) == _HEAD_BYTES and head.startswith(MAGIC[:3]):
            magic, checksum = _MAGIC.unpack_from(head)
            length, n_rows, written = _FACTS.unpack_from(head, _MAGIC.size)
            if position + _HEAD_BYTES + length <= n_bytes:
                end = position + _HEAD_BYTES + length
                payload = os.pread(self._descriptor, length, position + _HEAD_BYTES)
                if zlib.crc32(payload, zlib.crc32(head[_MAGIC.size :])) == checksum:
                    return Frame(payload if magic == MAGIC else None, n_rows, written, end)
        if end == n_bytes and not is_left:
            return None
        return Frame(None, 1, float("inf"), end)

    def close(self) -> None:
        """Lets go of the file."""
        os.close(self._descriptor)

    def remove(self) -> None:
        """Lets go of the file for good."""
        with suppress(FileNotFoundError):
            self.path.unlink()
        self.close()


def segments(folder: Path) -> Iterator[Path]:
    """The segments in a folder, the oldest first; none where there is no such folder."""
    return iter(sorted(path for path in folder.glob(f"*{_SUFFIX}") if _NAME.fullmatch(path.name)))


def n_bytes(folder: Path) -> int:
    """What the segments in a folder take."""
    total = 0
    for segment in segments(folder):
        with suppress(FileNotFoundError):  # it was read to its end
            total += segment.lstat().st_size
    return total
