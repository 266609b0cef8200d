"""The prediction log is where the settings say, or beside the state, or where it can be."""

import os
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from causeway.monitoring import folder
from causeway.monitoring.place import at, servers, where
from causeway.settings import Settings


def test_by_default_it_is_beside_the_state(tmp_path: Path) -> None:
    place = where(Settings(), tmp_path / "not there yet")
    assert place.database_url == f"sqlite:///{tmp_path}/not there yet/predictions.sqlite"
    assert place.spool == tmp_path / "not there yet" / "spool"
    assert at(Settings(), place.spool) == place


def test_a_database_of_the_settings_leaves_the_spool_there(tmp_path: Path) -> None:
    place = where(replace(Settings(), database_url="postgresql+psycopg://host/name"), tmp_path)
    assert place == ("postgresql+psycopg://host/name", tmp_path / "spool")


def test_where_there_can_be_no_files_it_is_among_the_temporary_ones(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    place = where(Settings(), tmp_path / "file" / "causeway")
    assert place.spool.parent == Path(tempfile.gettempdir(), f"causeway-{os.getuid()}")


def test_a_server_has_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = where(Settings(), tmp_path)
    monkeypatch.setenv(folder.VARIABLE, "/tmp/causeway-metrics-abc")
    assert place.server() == tmp_path / "spool" / "causeway-metrics-abc"
    monkeypatch.delenv(folder.VARIABLE)
    assert place.server() == tmp_path / "spool" / f"process-{os.getpid()}"


def test_the_spools_of_servers_are_known_by_their_names(tmp_path: Path) -> None:
    for name in ("causeway-metrics-a_b1", "process-12", "process-x", "backups", "causeway-metrics-"):
        (tmp_path / name).mkdir()
    (tmp_path / "process-13").touch()
    assert {each.name for each in servers(tmp_path)} == {"causeway-metrics-a_b1", "process-12"}
