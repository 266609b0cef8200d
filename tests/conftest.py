"""Real things for the tests: a trained model in a temporary store, and processes that serve it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from load_tests.machine import free_port

pytest_plugins = ("tests.postgres",)
ROOT = Path(__file__).parent.parent
HOME = Path(tempfile.mkdtemp(prefix="causeway-tests-"))
os.environ.update(BENTOML_HOME=str(HOME), BENTOML_DO_NOT_TRACK="True")
# Set before bentoml is imported: no test ever sees the user's own store.
PUBLISHED = ROOT.parent / "shared" / "data" / "handbook_2018-07-25_21d.parquet"
PATIENCE_S = 240
"""How long an event is awaited before a test says that it never came; not a claim about speed."""


@dataclass
class Server:
    """A process that runs `bentoml serve`."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> int:
        """Asks it to end and waits; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


def wait_until(
    condition: Callable[[], bool], what: str, server: Server | None = None, patience_s: float = PATIENCE_S
) -> None:
    """Returns once `condition` holds; fails with the server's log where it never does."""
    deadline = time.monotonic() + patience_s
    while not condition():
        ended = server is not None and server.process.poll() is not None
        if ended or time.monotonic() > deadline:
            pytest.fail(f"{what} did not come about\n{server.log.read_text() if server else ''}")
        time.sleep(0.02)


def answers(url: str) -> bool:
    """Whether an HTTP server answers there at all, whatever the status."""
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def environment(home: Path, **variables: str) -> dict[str, str]:
    """The environment for a process that works on the model store in `home`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {
        **os.environ,
        "PATH": path,
        "BENTOML_HOME": str(home),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONFAULTHANDLER": "1",
        **variables,
    }


@contextmanager
def serving(
    home: Path, log: Path, *, bento: str = ".", options: Sequence[str] = (), **variables: str
) -> Iterator[Server]:
    """`bentoml serve` of this checkout or of a Bento, from when it answers; ended afterwards."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bentoml", "serve", bento, "--host", "127.0.0.1", "--port", str(port), *options],
            cwd=ROOT,
            env=environment(home, **variables),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    server = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until(lambda: answers(f"{server.url}/health"), "an answer from the service", server)
        yield server
    except TimeoutError as exc:  # it did not answer: its log is to say what each of its threads was doing
        workers = psutil.Process(process.pid).children(recursive=True)
        process.kill()  # else it starts others, and does not hear that it is to end
        for worker in workers:
            worker.send_signal(signal.SIGABRT)
        psutil.wait_procs(workers, PATIENCE_S)
        exc.add_note(log.read_text())
        raise
    finally:
        if process.poll() is None:
            server.stop()


def train(home: Path, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """`python train_and_save.py ...` on the store in `home`."""
    command = [sys.executable, "train_and_save.py", *arguments]
    return subprocess.run(command, cwd=folder, env=environment(home), capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """This run's BENTOML_HOME, with the reference model in its store, trained as `make serve` trains it."""
    result = train(HOME, "gradient_boosting")
    assert result.returncode == 0, result.stderr
    yield HOME
    shutil.rmtree(HOME)


@pytest.fixture(scope="session")
def server(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The reference model, served."""
    with serving(home, tmp_path_factory.mktemp("serve") / "log") as running:
        yield running


@pytest.fixture(scope="session")
def published() -> Path:
    """The published transactions, where they are at hand."""
    if not PUBLISHED.exists():
        pytest.skip(f"the published transactions are not at {PUBLISHED}")
    return PUBLISHED
