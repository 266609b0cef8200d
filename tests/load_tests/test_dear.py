"""The dear model in a store of its own."""

import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT, environment

SAVED = """
import sys
from pathlib import Path
from load_tests.dear import in_scratch
tag = in_scratch(Path(sys.argv[1]), "fraud:latest", seed=0, n_trees=50)
from causeway import store
print(tag, store.find(tag).path)
"""


def test_a_dear_model_is_saved_beside_a_copy_of_its_pattern_and_not_in_the_users_store(
    home: Path, tmp_path: Path
) -> None:
    """In a process of its own: which store is used is settled when bentoml is imported."""
    command = [sys.executable, "-c", SAVED, str(tmp_path / "scratch")]
    done = subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=True)
    tag, path = done.stdout.split()
    assert tag.startswith("dear:")
    assert Path(path).is_relative_to(tmp_path / "scratch")
    assert (Path(path) / "contract.json").exists()
    assert not (home / "models/dear").exists()


def test_a_store_without_the_pattern_is_refused_by_name(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SAVED, str(tmp_path / "scratch")]
    empty = environment(tmp_path / "empty")
    done = subprocess.run(command, cwd=ROOT, env=empty, capture_output=True, text=True, check=False)
    assert "VersionNotFound" in done.stderr
    assert "fraud:latest" in done.stderr
