"""Each server counts in a folder of its own, which goes when the server goes."""

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.conftest import Server, serving, wait_until
from tests.monitoring.test_metrics import REQUESTS, scraped, status

REFUSED = REQUESTS % ("/predict", 400)


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files, in which the servers of a test leave nothing behind."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    yield folder
    assert folders(folder) == []


def folders(temporary: Path) -> list[Path]:
    return [folder for folder in temporary.iterdir() if "causeway-metrics-" in folder.name]


def count(server: Server) -> float:
    return scraped(server).get(REFUSED, 0)


def refuse(server: Server) -> None:
    """Sends a request that is refused, and waits until it is counted."""
    before = count(server)
    assert status(f"{server.url}/predict", b"{}") == 400
    wait_until(lambda: count(server) == before + 1, "one refusal more", server)


def test_a_second_server_leaves_the_first_one_s_metrics_alone(home: Path, tmp_path: Path, temporary: Path) -> None:
    with serving(home, tmp_path / "first", TMPDIR=str(temporary), CAUSEWAY_WORKERS="2") as first:
        refuse(first)
        with serving(home, tmp_path / "second", TMPDIR=str(temporary)) as second:
            assert (count(first), count(second)) == (1, 0)
            refuse(first)
            refuse(second)
            assert (count(first), count(second)) == (2, 1)
            assert len(folders(temporary)) == 2
        refuse(first)


def test_what_a_killed_server_left_behind_goes_with_the_next_start(home: Path, tmp_path: Path, temporary: Path) -> None:
    with serving(home, tmp_path / "killed", TMPDIR=str(temporary)) as killed:
        started = psutil.Process(killed.process.pid)
        for process in (started, *started.children(recursive=True)):
            process.kill()
        killed.process.wait()
        (left,) = folders(temporary)
    with serving(home, tmp_path / "next", TMPDIR=str(temporary)) as server:
        refuse(server)
        assert left not in folders(temporary)
