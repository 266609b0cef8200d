"""A real Prometheus scrapes, and every panel of the dashboard and every rule has something to say."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from causeway.monitoring.definitions import definitions
from load_tests.machine import free_port
from tests.conftest import ROOT, answers, environment, serving, wait_until
from tests.deploy.prometheus import Prometheus, scraping
from tests.deploy.test_rules import RULES
from tools.dashboard import DASHBOARD

PANELS = [
    (panel["title"], target["expr"])
    for panel in json.loads(DASHBOARD.read_text())["panels"]
    for target in panel.get("targets", ())
]

NOT_SERVED = {name for name in definitions() if name.startswith(("causeway_gpu_", "causeway_shadow_"))} | {
    "causeway_quality",  # by labels: the keeper looks for them once a minute
    "causeway_gc_pause_seconds",  # collections are minutes apart
}
"""What the served process of these tests does not show: its machine has no GPU, and it no shadow."""

CHOSEN = {"$__rate_interval": "5s", "$job": "causeway", "$instance": ".*"}
"""What Grafana puts into a query."""

COMPARISON = re.compile(r"\s(==|!=|>=|<=|>|<)(\sbool)?\s[\d.]+(\s\*\s[\d.]+)*")


def without_conditions(expr: str) -> str:
    """A rule's expression, which gives what is compared whether or not it is a reason for an alert."""
    return COMPARISON.sub("", expr).replace("unless", "and").replace("< on", "and on")


def in_grafana(expr: str) -> str:
    """A panel's expression as Grafana sends it."""
    for name, value in CHOSEN.items():
        expr = expr.replace(name, value)
    return expr


EXPRESSIONS = [
    *((title, in_grafana(expr)) for title, expr in PANELS),
    *((rule.get("alert", rule.get("record")), without_conditions(rule["expr"])) for rule in RULES),
]


def metrics(expr: str) -> set[str]:
    """The metrics that an expression names."""
    return {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"causeway_[a-z_]+", expr)}


def all_have_data(prometheus: Prometheus, *, but: set[str] = frozenset()) -> None:
    """Waits until every expression gives a number, but those that name a metric of `but`."""
    asked = [one for one in EXPRESSIONS if not but & metrics(one[1])]
    assert asked
    for name, expr in asked:
        wait_until(lambda expr=expr: prometheus.has(expr), f"data of {name}, {expr},")


@pytest.fixture
def example(tmp_path: Path) -> Iterator[str]:
    """The URL of processes that show every metric."""
    environ = {**environment(tmp_path), "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}
    port = str(free_port())
    with ExitStack() as processes:
        for arguments in (["worker", port], ["keeper"]):
            command = [sys.executable, "-m", "tests.deploy.example", *arguments]
            process = subprocess.Popen(command, cwd=ROOT, env=environ, stdin=subprocess.PIPE)
            processes.enter_context(process)
            processes.callback(process.kill)
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/metrics"), "metrics")
        yield f"http://127.0.0.1:{port}"


def test_every_panel_and_every_rule_has_data_where_every_metric_is_shown(example: str, tmp_path: Path) -> None:
    with scraping(example, tmp_path) as prometheus:
        all_have_data(prometheus)


PAUSE_S = 0.02
"""Between requests, so that the machine has time for Prometheus."""


@contextmanager
def asked(url: str) -> Iterator[None]:
    """Somebody who goes on asking for predictions, well and badly, while the context lasts."""
    is_over = threading.Event()
    with urllib.request.urlopen(f"{url}/docs.json") as response:
        example = json.load(response)["paths"]["/predict"]["post"]["requestBody"]["content"]["application/json"]
    bodies = [json.dumps(example["examples"]["features"]["value"]).encode(), b'{"rows": [{}]}']

    def ask() -> None:
        while not is_over.wait(PAUSE_S):
            for body in bodies:
                request = urllib.request.Request(f"{url}/predict", body, {"Content-Type": "application/json"})
                try:
                    urllib.request.urlopen(request).close()
                except urllib.error.HTTPError as refused:
                    refused.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def test_every_panel_and_every_rule_has_data_of_a_served_process(home: Path, tmp_path: Path) -> None:
    with (
        serving(
            home, tmp_path / "log", CAUSEWAY_WORKERS="2", CAUSEWAY_DRIFT_ROWS="250", CAUSEWAY_DRIFT_S="1"
        ) as server,
        asked(server.url),
        scraping(server.url, tmp_path) as prometheus,
    ):
        all_have_data(prometheus, but=NOT_SERVED)
