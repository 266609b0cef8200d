"""The keeper of a server, as its workers see it: one process, which any of them starts where there is none.

Who holds the lock on the file beside the segments is the keeper of that folder. A worker that starts one takes the
lock first and leaves it to the new process, so that there are never two. The keeper's standard input is a pipe that
nobody writes to: it ends with the worker that holds the other end, and then another worker starts the next.
"""

from __future__ import annotations

import fcntl
import math
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from causeway.monitoring.spool import segments

LOCK = "keeper.lock"
MODULE = "causeway.monitoring.keeper"
IGNORED = (signal.SIGINT, signal.SIGTERM)
"""Meant for the workers: a keeper ends with them, once all is written."""

RESTART_S = 5.0
"""How long a worker waits before it starts the next: one that cannot run does not take the processor all the time."""

END_S = 4.0
"""How long a keeper is waited for at the end."""


class KeeperProcess:
    """Of the server whose spool is `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = -math.inf

    def tend(self) -> None:
        """Starts a keeper where there is none. Raises `OSError` where the folder or the process cannot be made."""
        is_running = self._process is not None and self._process.poll() is None
        if is_running or time.monotonic() - self._started_at < RESTART_S:
            return
        lock = take(self._folder)
        if lock is None:
            return
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        # Inherited: a server that ends asks its workers' children to end too, before these can say that they will not.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED)
        try:
            self._leave()
            self._started_at = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", MODULE, "--folder", str(self._folder), "--lock", str(lock)],
                stdin=subprocess.PIPE,
                pass_fds=[lock],
                env={**os.environ, "PYTHONPATH": path},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            os.close(lock)

    def end(self) -> None:
        """Lets the keeper write what is there, and waits for its end; where another worker started it, does nothing.

        Where none runs and something is left, one is started for it. Raises `OSError` as `tend` does.
        """
        if any(segments(self._folder)):
            self.tend()
        if self._process is not None:
            self._leave()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(END_S)

    def _leave(self) -> None:
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()


def take(folder: Path) -> int | None:
    """The lock of a folder's keeper, as a descriptor; None where somebody else has it. Raises `OSError`."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return _locked(folder / LOCK, os.O_CREAT)


def take_over(folder: Path) -> int | None:
    """As `take`, of a folder that had a keeper before: raises `FileNotFoundError` where it had none."""
    return _locked(folder / LOCK, 0)


def _locked(file: Path, flags: int) -> int | None:
    descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(descriptor), file.stat()):  # not removed before it was locked
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None
