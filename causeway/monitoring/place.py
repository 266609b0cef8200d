"""Where the prediction log is: the database, and the spool that leads to it."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

from causeway import logs
from causeway.monitoring import folder
from causeway.monitoring.database import sqlite_url
from causeway.settings import Settings

DATABASE = "predictions.sqlite"
SPOOL = "spool"
_SERVER = re.compile(r"causeway-metrics-\w+|process-\d+")


class Place(NamedTuple):
    """Nothing of it needs to exist."""

    database_url: str
    spool: Path
    """Holds a folder for each server."""

    def server(self) -> Path:
        """The spool folder of the server whose worker this is, named after its metrics folder (`folder.join`)."""
        metrics = os.environ.get(folder.VARIABLE)
        return self.spool / (Path(metrics).name if metrics else f"process-{os.getpid()}")


def where(settings: Settings, state_folder: Path) -> Place:
    """As the settings say; a SQLite file in the folder of the state file by default.

    Where that folder cannot be written, as in a container that is read-only or with a mounted ConfigMap, it is a
    folder of this user's among the temporary files, which is logged: the log lasts as long as those.
    """
    if _is_writable(state_folder):
        return at(settings, state_folder / SPOOL)
    temporary = Path(tempfile.gettempdir()) / f"causeway-{os.getuid()}"
    logs.get().warning("prediction_log_is_temporary", folder=str(temporary), instead_of=str(state_folder))
    return at(settings, temporary / SPOOL)


def at(settings: Settings, spool: Path) -> Place:
    """The place whose spool is known."""
    return Place(settings.database_url or sqlite_url(spool.parent / DATABASE), spool)


def servers(spool: Path) -> list[Path]:
    """The folders in a spool that servers have, by their names (`Place.server`)."""
    return [each for each in spool.iterdir() if _SERVER.fullmatch(each.name) and each.is_dir()]


def _is_writable(path: Path) -> bool:
    """Whether there can be files in the folder `path`; it is made where it does not exist."""
    existing = next(each for each in (path, *path.absolute().parents) if each.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)
