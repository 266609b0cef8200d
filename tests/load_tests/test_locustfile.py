"""The locustfile as Locust's users run it: without a page, with it, and in several processes."""

import itertools
import json
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from load_tests.machine import free_port
from tests.conftest import PATIENCE_S, ROOT, Server, answers, environment, wait_until

FAULTS = {
    ("POST", "LocustBadStatusCode(code=500)"),
    ("POST", "CatchResponseError('wrong: a prediction that is not from 0 to 1')"),
    ("REFUSED", "CatchResponseError('refused: 429')"),
    ("REFUSED", "CatchResponseError('refused: 503 overloaded')"),
}
CLOSED = "Locust's loop is closed"


@dataclass(frozen=True)
class Page:
    """Locust's page, by what its buttons ask."""

    locust: Server

    def swarm(self, **form: object) -> None:
        told = json.loads(self.read("swarm", urllib.parse.urlencode(form).encode()))
        assert told["success"], told

    def stop(self) -> None:
        assert json.loads(self.read("stop", b""))["success"]

    def statistics(self) -> dict[tuple[str, str], dict[str, Any]]:
        """Rows of the table by type and name."""
        return {(row["method"], row["name"]): row for row in self.told()["stats"] if row["name"] != "Aggregated"}

    def faults(self) -> set[tuple[str, str]]:
        """Rows of the table of failures: type and text."""
        return {(fault["method"], fault["error"]) for fault in self.told()["errors"]}

    def told(self) -> dict[str, Any]:
        return json.loads(self.read("stats/requests"))

    def read(self, path: str, data: bytes | None = None) -> str:
        with urllib.request.urlopen(f"{self.locust.url}/{path}", data, timeout=PATIENCE_S) as response:
            return response.read().decode()


def command(host: str, *arguments: object) -> list[str]:
    return ["locust", "-f", str(ROOT / "load_tests/locustfile.py"), "--host", host, *map(str, arguments)]


def finished(host: str, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run in a folder that is not the repository's."""
    elsewhere = environment(folder)
    elsewhere.pop("PYTHONPATH", None)
    run = command(host, *arguments)
    return subprocess.run(run, cwd=folder, env=elsewhere, capture_output=True, text=True, check=False)


@contextmanager
def with_page(host: str, log: Path, *arguments: object) -> Iterator[Page]:
    port, master_port = free_port(), free_port()
    ports = ("--web-host", "127.0.0.1", "--web-port", port, "--master-bind-port", master_port)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(host, *ports, "--master-port", master_port, *arguments),
            cwd=ROOT,
            env=environment(log.parent),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    locust = Server(f"http://127.0.0.1:{port}", process, log)
    try:
        wait_until(lambda: answers(locust.url), "Locust's page", locust)
        yield Page(locust)
    finally:
        if process.poll() is None:
            locust.stop()


@pytest.fixture(scope="module")
def faulty() -> Iterator[str]:
    """The URL of a server that answers wrongly, refuses in the contract's form and another, and fails, in turn."""
    told = itertools.cycle(
        [
            (200, b'{"predictions": [[7.5]]}'),
            (503, b'{"error": "The service is overloaded", "code": "overloaded", "request_id": "0"}'),
            (429, b"slow down"),
            (500, b'{"error": "The model failed", "code": "model_failed", "request_id": "0"}'),
        ]
    )

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = next(told)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_without_a_page_all_kinds_of_users_get_right_answers(server: Server, tmp_path: Path) -> None:
    options = ("--headless", "--many-rows", 20, "--users", 60, "--spawn-rate", 60, "--run-time", "2s")
    done = finished(server.url, tmp_path, *options, "--json-file", tmp_path / "told")
    assert done.returncode == 0, done.stderr
    assert CLOSED in done.stderr
    rows = {(row["method"], row["name"]): row for row in json.loads((tmp_path / "told.json").read_text())}
    assert set(rows) == {("POST", f"/predict ({kind})") for kind in ("one", "many", "bulk")}
    assert all(row["num_requests"] > 0 and row["num_failures"] == 0 for row in rows.values())


def test_the_page_of_several_processes_tells_wrong_answers_refusals_and_failures_apart(
    faulty: str, tmp_path: Path
) -> None:
    with with_page(faulty, tmp_path / "log", "--processes", 2, "--tags", "one") as page:
        assert "<title>Locust</title>" in page.read("")
        wait_until(lambda: len(page.told()["workers"]) == 2, "two workers", page.locust)
        page.swarm(user_count=20, spawn_rate=20, host=faulty, many_rows=5, seed=1)
        wait_until(lambda: len(page.faults()) == 4, "one of each fault", page.locust)
        page.stop()
        assert page.faults() == FAULTS
        rows = page.statistics()
        assert set(rows) == {("POST", "/predict (one)"), ("REFUSED", "/predict (one)")}
        assert all(row["num_failures"] == row["num_requests"] for row in rows.values())
        assert page.locust.stop() == 1


def test_a_tag_that_nobody_has_is_refused(tmp_path: Path) -> None:
    done = finished("http://127.0.0.1:9", tmp_path, "--headless", "--tags", "two")
    assert done.returncode == 1
    assert "no user is left; the tags are one, many, bulk" in done.stderr
    assert "Traceback" not in done.stderr


def test_requests_without_rows_are_refused(tmp_path: Path) -> None:
    done = finished("http://127.0.0.1:9", tmp_path, "--headless", "--many-rows", "0")
    assert done.returncode != 0
    assert "'0' is no number of rows" in done.stderr
