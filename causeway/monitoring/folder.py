"""The folder in which the workers of one server keep their metrics, for /metrics of any of them to add up.

BentoML 1.4.39 takes one folder for all servers of a BENTOML_HOME, and each of them empties it when it starts. Here the
server's first process makes a folder of its own and hands it to its workers. Whoever uses a folder holds a lock on it;
one that nobody holds was left behind by a server that was killed.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from prometheus_client import multiprocess

VARIABLE = "_CAUSEWAY_METRICS_FOLDER"
"""How the folder gets from a server to its workers; not a setting."""

_PREFIX = "causeway-metrics-"


def create() -> None:
    """Makes the folder for the workers that this process is about to start, and removes it when this process ends."""
    temporary = Path(tempfile.gettempdir())
    for other in temporary.glob(f"{_PREFIX}*"):
        _remove_if_left_behind(other)
    made = Path(tempfile.mkdtemp(prefix=f".{_PREFIX}"))
    _hold(made)
    # Only now does it get the name that other servers look for: a folder without a lock would count as left behind.
    folder = made.rename(made.with_name(made.name[1:]))
    os.environ[VARIABLE] = str(folder)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)


def join() -> None:
    """In a worker, makes prometheus_client use the server's folder; must come before the first metric."""
    folder = os.environ.get(VARIABLE)
    if folder is not None:
        _hold(Path(folder))
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder


def forget_the_dead() -> None:
    """Takes the gauges of workers that were killed out of the folder; what they counted stays."""
    folder = os.environ.get(VARIABLE)
    for file in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = file.stem.rpartition("_")[2]
        if not Path(f"/proc/{pid}").exists():
            with suppress(FileNotFoundError):  # another worker does the same
                multiprocess.mark_process_dead(pid, folder)  # type: ignore[no-untyped-call]


def _hold(folder: Path) -> None:
    """Locks the folder, shared with others, until this process ends."""
    fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)


def _remove_if_left_behind(folder: Path) -> None:
    # Other users' folders cannot be opened, and those in use cannot be locked.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
