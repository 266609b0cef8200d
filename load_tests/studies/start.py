"""How long it takes to start: from clone to first prediction, from `bentoml serve` to ready, and to simulate.

`python load_tests/studies/start.py` prints a table and writes results/start.json. Needs a model in the store (`make
train`).
Each start of ours is paired with one of a BentoML service that returns its argument, so that the machine's own speed
can be told from ours. The clone is of the commit in this folder; packages come from pip's cache where it is warm.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from load_tests.circumstances import circumstances  # noqa: E402
from load_tests.machine import free_port  # noqa: E402
from models.simulator import Simulation, simulate  # noqa: E402
from models.windows import add_features  # noqa: E402

RESULT = ROOT / "load_tests/results/start.json"
ROUNDS = 5
PATIENCE_S = 300
SEED = 0
ECHO = """
import bentoml

@bentoml.service
class Echo:
    @bentoml.api
    def predict(self, features: list[list[float]]) -> list[list[float]]:
        return features
"""


def main() -> None:
    """Measures everything once, prints it and keeps it."""
    with tempfile.TemporaryDirectory() as scratch:
        echo = Path(scratch, "echo")
        echo.mkdir()
        Path(echo, "service.py").write_text(ECHO)
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(seconds_to_ready(ROOT))
            theirs.append(seconds_to_ready(echo))
        result = {
            **circumstances(SEED),
            "rounds": ROUNDS,
            "serve_to_ready_s": ours,
            "bare_bentoml_serve_to_ready_s": theirs,
            "clone_to_first_prediction_s": seconds_from_clone(Path(scratch)),
            "simulate_a_million": simulate_a_million(),
        }
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"bentoml serve to ready, median of {ROUNDS}: {statistics.median(ours):.2f} s")
    print(f"the same of a bare BentoML service beside it: {statistics.median(theirs):.2f} s")
    print(f"clone to first prediction: {result['clone_to_first_prediction_s']:.1f} s")
    print(f"simulated: {result['simulate_a_million']}")


def seconds_to_ready(folder: Path) -> float:
    """From the start of `bentoml serve` in `folder` to the first 200 of /readyz."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("bentoml")), "serve", "--host", "127.0.0.1", "--port", str(port)]
    with started(command, folder) as begun:
        wait(lambda: is_ready(f"http://127.0.0.1:{port}/readyz"))
        return time.perf_counter() - begun


def seconds_from_clone(scratch: Path) -> float:
    """From `git clone` to the answer to the line that `make serve` prints, with an empty model store."""
    begun = time.perf_counter()
    folder, log = scratch / "clone", scratch / "log"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    (scratch / "store").mkdir()
    command = ["make", "serve", f"PORT={free_port()}"]
    with log.open("wb") as output, started(command, folder, output, BENTOML_HOME=str(scratch / "store")):
        wait(lambda: "\ncurl " in log.read_text())
        (line,) = re.findall(r"^curl .*", log.read_text(), re.MULTILINE)
        answer = json.loads(subprocess.run(["bash", "-c", line], check=True, capture_output=True, text=True).stdout)
        assert len(answer["predictions"]) == 1
        return time.perf_counter() - begun


def simulate_a_million() -> dict[str, float]:
    """Seconds for at least a million simulated transactions with their window features."""
    begun = time.perf_counter()
    transactions = simulate(Simulation(n_days=106), SEED)
    simulated = time.perf_counter()
    add_features(transactions)
    assert len(transactions) >= 1_000_000
    return {
        "rows": len(transactions),
        "simulate_s": simulated - begun,
        "features_s": time.perf_counter() - simulated,
    }


@contextmanager
def started(command: list[str], folder: Path, output: Any = subprocess.DEVNULL, **variables: str) -> Iterator[float]:
    """A process with all that it starts, ended afterwards; yields when it was begun."""
    environment = {**os.environ, "BENTOML_DO_NOT_TRACK": "true", **variables}
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        yield begun
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(PATIENCE_S)


def wait(condition: Callable[[], bool]) -> None:
    """Returns once `condition` holds. Raises TimeoutError."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_S} s")
        time.sleep(0.01)


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()
