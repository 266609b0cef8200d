"""README.md is true: its commands run from top to bottom in a fresh copy, as a stranger would run them."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import httpx
import numpy as np
import pandas as pd
import pytest

from causeway.training.dataset import split
from load_tests.machine import free_port
from models.simulator import Simulation, simulate
from models.transactions import CONTRACT
from models.windows import add_features
from tests.conftest import PATIENCE_S, PUBLISHED, ROOT, answers, wait_until
from tests.deploy.prometheus import which


@dataclass(frozen=True)
class Block:
    """A fenced block: the words after the fence, and its text."""

    language: str
    note: str
    text: str


def blocks() -> list[Block]:
    fences = re.findall(r"^```(\w+) ?([^\n]*)\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return [Block(*fence) for fence in fences]


SETUP_S = 1200.0
"""How long is awaited what installs packages and trains."""

OWN_MODEL = next(block for block in blocks() if block.note == "models/breast_cancer.py")


class Stranger:
    """Somebody with a copy of the project, a home folder, and nothing else."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self.ports: dict[str, int] = {}
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("BENTOML", "CAUSEWAY", "MAKE"))
        }
        cache = os.environ.get("PIP_CACHE_DIR", Path("~/.cache/pip").expanduser())
        self.environment = {**kept, "HOME": str(home), "PIP_CACHE_DIR": str(cache), "BENTOML_DO_NOT_TRACK": "true"}

    def activate(self) -> None:
        """`source .venv/bin/activate`, for every command from here on."""
        self.environment["PATH"] = f"{self.folder / '.venv/bin'}{os.pathsep}{self.environment['PATH']}"

    def with_free_ports(self, text: str) -> str:
        """`text` with each port number of the README replaced by one that is free here."""
        return re.sub(r"\b300\d\b", lambda found: str(self.ports.setdefault(found[0], free_port())), text)

    def run(self, *command: str) -> str:
        """What a command prints; it must succeed."""
        result = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    @contextmanager
    def running(self, script: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
        """A script that goes on until it is ended, with all that it started."""
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", script],
                cwd=self.folder,
                env=self.environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(PATIENCE_S)


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Stranger:
    home = tmp_path_factory.mktemp("home")
    folder = home / "causeway"
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    if PUBLISHED.exists():
        shutil.copy2(PUBLISHED, folder / "transactions.parquet")
    else:
        table = add_features(simulate(Simulation(n_customers=1000, n_terminals=2000, n_days=60), 0))
        table.to_parquet(folder / "transactions.parquet")
    return Stranger(folder, home)


def healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=PATIENCE_S) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def test_every_command_works_from_top_to_bottom(stranger: Stranger, tmp_path: Path) -> None:
    todo = [block for block in blocks() if block.language in ("bash", "python") and block.note != "container"]
    token = stranger.environment["CAUSEWAY_ADMIN_TOKEN"] = "0123456789abcdef"
    first, *todo = todo
    assert first.text == "make serve\n"
    port = stranger.ports.setdefault("3000", free_port())
    log = tmp_path / "make-serve"
    with stranger.running(f"exec make serve PORT={port}", log) as serving:
        wait_until(
            lambda: "Ready." in log.read_text() or serving.poll() is not None, "a line to paste", patience_s=SETUP_S
        )
        assert serving.poll() is None, log.read_text()
        pasted = next(line for line in log.read_text().splitlines() if line.startswith("curl "))
        answered = json.loads(stranger.run("bash", "-c", pasted))
        assert answered["variant"] == "champion"
        stranger.environment["CAUSEWAY_URL"] = f"http://127.0.0.1:{port}"
        for number, block in enumerate(todo):
            text = stranger.with_free_ports(block.text)
            if block.note == "traffic":
                # Shorter, with what a busy machine has in that time; its latencies compare nothing.
                script = f"{text.strip()} --hold 4s --min-requests 20 --max-p99-ratio 50"
                with traffic(f"http://127.0.0.1:{port}", stranger.folder / "transactions.parquet"):
                    assert "Promoted" in stranger.run("bash", "-c", script)
            elif block.note == "admin":
                told = json.loads(stranger.run("bash", "-c", text))
                assert told["code"] == "change_refused", token  # it is champion since the rollout
            elif block.note == "feedback":
                told = json.loads(stranger.run("bash", "-c", text.replace("8c1f...", answered["request_id"])))
                assert (told["accepted"], told["unknown"]) == (1, [])
            elif block.note == "load":
                stranger.run("bash", "-c", f'{text.strip()} OPTIONS="--rates 50,100 --stage 1s --warm-up 500ms"')
                assert (stranger.folder / "build/load-test/report.html").is_file()
            elif block.note == "compare":
                stranger.run("bash", "-c", text)
                assert (stranger.folder / "build/load-test/comparison.html").is_file()
            elif block.note == "neural":
                # Small and short, and on the table: what a family learns on its own data is its own tests' affair.
                few = " --data transactions.parquet --label TX_FRAUD"
                text = re.sub(
                    "( transformer| --teacher fraud:latest|optimise fraud:latest)$", rf"\1{few}", text, flags=re.M
                )
                text = text.replace(" transformer", " transformer --set n_blocks=1 --set max_epochs=16")
                text = text.replace(" distil", " distil --set max_epochs=20")
                assert "int8-static" in stranger.run("bash", "-euo", "pipefail", "-c", text)
            elif block.note == "watch":
                watches(stranger, text, tmp_path)
            elif block.note:
                (stranger.folder / block.note).write_text(text)
            elif block.language == "python":
                (tmp_path / "script.py").write_text(text)
                assert stranger.run("python", str(tmp_path / "script.py"))
            elif "bentoml serve" in text:
                if "activate" in text:
                    stranger.activate()
                (own_port,) = re.findall(r"--port (\d+)", text)
                with stranger.running(text, tmp_path / f"serve-{number}") as beside:
                    url = f"http://127.0.0.1:{own_port}"
                    wait_until(lambda url=url, beside=beside: healthy(url) or beside.poll() is not None, text)
                    assert beside.poll() is None, (tmp_path / f"serve-{number}").read_text()
                    if "breast_cancer" in text:
                        answers_equal_scikit_learn(url, stranger.folder / OWN_MODEL.note)
            else:
                stranger.run("bash", "-euo", "pipefail", "-c", text)
    assert (stranger.folder / "fraud.bentomodel").is_file()


def watches(stranger: Stranger, text: str, folder: Path) -> None:
    """Prometheus starts with that command, where there is one, on a port of its own and with its data elsewhere."""
    if (found := which("prometheus")) is None:
        return
    address = f"127.0.0.1:{free_port()}"
    own = f" --web.listen-address={address} --storage.tsdb.path={folder / 'data'}"
    script = text.strip().replace("prometheus", str(found), 1) + own
    with stranger.running(f"exec {script}", folder / "prometheus") as running:
        ready = f"http://{address}/-/ready"
        wait_until(lambda: answers(ready) or running.poll() is not None, "Prometheus")
        assert running.poll() is None, (folder / "prometheus").read_text()


@contextmanager
def traffic(url: str, table: Path) -> Iterator[None]:
    """Callers who ask about rows of a table, all the time, without a routing key."""
    is_over, rows = threading.Event(), pd.read_parquet(table, columns=list(CONTRACT.names)).to_numpy()

    def ask(seed: int) -> None:
        chosen = np.random.default_rng(seed)
        with httpx.Client(timeout=PATIENCE_S) as client:
            while not is_over.is_set():
                some = rows[chosen.integers(len(rows), size=5)]
                client.post(f"{url}/predict", json={"features": some.tolist()}).raise_for_status()

    with ThreadPoolExecutor() as callers:
        asking = [callers.submit(ask, seed) for seed in range(4)]
        try:
            yield
        finally:
            is_over.set()
    for each in asking:
        each.result()


def answers_equal_scikit_learn(url: str, file: Path) -> None:
    """Every row of the breast-cancer data gets over HTTP what the same model, trained here, predicts for it."""
    family = loaded(file)
    data = family.default_data(0)
    expected = family.train(split(data).train, family.Params(), 0).predict(data.X)
    body = json.dumps({"features": data.X.astype(float).tolist()}).encode()
    request = urllib.request.Request(f"{url}/predict", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
        answer = json.load(response)
    assert answer["model_version"].startswith("breast_cancer:")
    assert len(answer["predictions"]) == 569
    np.testing.assert_allclose(np.array(answer["predictions"])[:, 0], expected, rtol=0, atol=1e-5)


def loaded(file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("breast_cancer", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["breast_cancer"] = module
    spec.loader.exec_module(module)
    return module


def test_an_own_model_takes_less_than_40_lines() -> None:
    assert OWN_MODEL.text.count("\n") < 40


def test_the_client_installs_alone(stranger: Stranger, tmp_path: Path) -> None:
    # From the copy: building leaves files behind in its folder.
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(tmp_path), str(stranger.folder)]
    subprocess.run(pip, check=True, capture_output=True)
    code = "import causeway.client as c; print(c.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith(str(tmp_path))


def test_the_rooms_it_lists_are_there() -> None:
    (tree,) = re.findall(r"## The rooms\n\n```\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    listed, parent = set(), Path()
    for line in tree.splitlines():
        names = [name for name in line.split() if re.fullmatch(r"[\w./]+(\.py|\.yaml|/)", name)]
        if not line.startswith(" "):
            parent = Path(names[0])
            listed.add(parent)
        else:
            listed.update(parent / name for name in names)
    assert all((ROOT / path).exists() for path in listed), listed
    modules = {path.relative_to(ROOT) for room in ("causeway", "models") for path in (ROOT / room).glob("*.py")}
    assert {path for path in modules if path.name != "__init__.py"} <= listed
