"""A worker and a keeper that show every metric there is, in one folder, as a server's processes do.

`python -m tests.deploy.example worker PORT` tells one of everything whenever /metrics is asked; `keeper` does so once.
"""

from __future__ import annotations

import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
from prometheus_client import CollectorRegistry

from causeway.monitoring.metrics import Metrics
from causeway.monitoring.model_metrics import ModelMetrics
from causeway.version import ModelVersion
from tests import tiny

CHAMPION, SHADOW = "tiny:a", "tiny:b"


def work(metrics: Metrics, version: ModelVersion) -> None:
    """One of everything that a worker may tell."""
    champion = ("champion", CHAMPION)
    metrics.predicted([champion], np.array([(0, 0.01, 1e-4, 1e-3, 2e-3, 1e-4)]))
    for status in (400, 500, 503):
        metrics.answered("/predict", status, 0.01, champion)
    metrics.refused("overloaded")
    metrics.refused_value("a", "missing")
    metrics.batch(8, "idle")
    metrics.looked_up("hit")
    metrics.poisoned()
    metrics.scored(version, np.array([[0.5], [np.nan]], np.float32))
    metrics.shadowed(version, "scored", 2)
    metrics.differed(version, np.array([[0.1]], np.float32))
    metrics.feedback("stored")
    metrics.left_out("full", 3)
    metrics.lagged(1e-3)
    metrics.collected(2, 1e-3)
    metrics.gpu(0, 0.5, 2**30, 2**34)
    shares = {champion: 100.0, ("shadow", SHADOW): 0.0}
    created = {CHAMPION: time.time() - 3600, SHADOW: time.time()}
    metrics.deployed(3, shares, is_followed=True, created=created, engines={CHAMPION: ("torch cuda:0 fp32", "cuda:0")})
    metrics.ran_out_of_memory()
    metrics.device_lost()
    metrics.flush()


def keep(metrics: ModelMetrics) -> None:
    """One of everything that the keeper may tell."""
    statistics, thresholds = {("a", "psi"): 0.3, ("p", "ks"): 0.01}, {("a", "psi"): 0.1, ("p", "ks"): 0.02}
    metrics.drift(CHAMPION, statistics, thresholds, {"a": True, "p": False}, n_rows=1000, closed=time.time())
    metrics.quality(CHAMPION, {"average_precision": 0.7}, n_labels=200)
    metrics.estimated(CHAMPION, {"average_precision": (0.6, 0.68, 0.75)})
    metrics.written(8)
    metrics.left_out("sampled", 1)
    metrics.backlog(4096)
    metrics.database_failed()
    metrics.flush()


class Worker(BaseHTTPRequestHandler):
    """Answers /metrics for both."""

    metrics = Metrics(CollectorRegistry())
    version = ModelVersion.load(tiny.saved())

    def do_GET(self) -> None:
        work(self.metrics, self.version)
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
        self.end_headers()
        self.wfile.write(self.metrics.exposition().encode())

    def log_message(self, *_: object) -> None:
        """Says nothing."""


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        HTTPServer(("127.0.0.1", int(sys.argv[2])), Worker).serve_forever()
    else:
        keep(ModelMetrics(CollectorRegistry()))
        sys.stdin.read()  # until the test ends
