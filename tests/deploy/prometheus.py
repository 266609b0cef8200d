"""A real Prometheus for the tests: Debian's, on PATH or where `make prometheus` puts it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from load_tests.machine import free_port
from tests.conftest import PATIENCE_S, ROOT, Server, wait_until

UNPACKED = ROOT / ".venv" / "prometheus" / "usr" / "bin"
FOLDER = ROOT / "deploy" / "prometheus"


def which(name: str) -> str | None:
    """Where the program is; None where it is not."""
    return shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}{UNPACKED}")


def program(name: str) -> str:
    """The same; skips the test where it is not."""
    found = which(name)
    if found is None:
        pytest.skip(f"there is no {name}: `make prometheus` gets it where there is apt-get")
    return found


@dataclass
class Prometheus:
    """A process that scrapes."""

    url: str

    def has(self, expr: str) -> bool:
        """Whether the expression gives a number."""
        return any(sample["value"][1] != "NaN" for sample in self.query(expr))

    def query(self, expr: str) -> list[dict[str, Any]]:
        """What the expression gives, as a list of samples."""
        query = urllib.parse.urlencode({"query": expr})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=PATIENCE_S) as response:
                samples: list[dict[str, Any]] = json.load(response)["data"]["result"]
                return samples
        except urllib.error.HTTPError as refused:
            with refused:
                pytest.fail(f"{expr}\n{refused.read().decode()}")


def is_ready(server: Server) -> bool:
    """Whether it answers queries."""
    try:
        with urllib.request.urlopen(f"{server.url}/-/ready", timeout=5):
            return True
    except urllib.error.HTTPError as refused:
        refused.close()
    except OSError:
        pass
    return False


@contextmanager
def scraping(url: str, folder: Path) -> Iterator[Prometheus]:
    """Prometheus with the project's own configuration, from when it answers, but it scrapes `url`, twice a second."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    config["rule_files"] = [str(FOLDER / file) for file in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [urllib.parse.urlsplit(url).netloc]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    address = f"127.0.0.1:{free_port()}"
    command = [program("prometheus"), f"--config.file={folder / 'prometheus.yml'}", f"--web.listen-address={address}"]
    command += [f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=folder)
    try:
        server = Server(f"http://{address}", process, folder / "prometheus.log")
        wait_until(lambda: is_ready(server), "a ready Prometheus", server)
        yield Prometheus(server.url)
    finally:
        process.terminate()
        process.wait(PATIENCE_S)
