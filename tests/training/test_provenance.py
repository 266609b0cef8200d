"""A version says which commit and which libraries made it."""

import platform
import subprocess
from pathlib import Path

import pytest

from causeway.training import provenance


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_the_commit_is_that_of_the_folder_and_changes_are_told(tmp_path: Path) -> None:
    assert provenance.commit(tmp_path) == "unknown"
    git(tmp_path, "init")
    git(tmp_path, "commit", "--allow-empty", "-m", "first")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert provenance.commit(tmp_path) == head
    (tmp_path / "new.py").write_text("")
    assert provenance.commit(tmp_path) == f"{head}-dirty"


def test_versions_are_those_that_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "LIBRARIES", ("bentoml", "nosuchlibrary"))
    assert provenance.versions() == {"python": platform.python_version(), "bentoml": "1.4.39"}
