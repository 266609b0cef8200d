"""Prometheus asks /metrics while the server is under load: whether anybody waits for that."""

from __future__ import annotations

import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from load_tests.bench import summary
from load_tests.bench.bench import Bench, rounds
from load_tests.bench.peers import CAUSEWAY
from load_tests.open_loop.client import HOST

SCRAPED = "causeway_scraped"
EVERY_S = 1.0


def run(bench: Bench) -> dict[str, Any]:
    """Latency with a scraper over that without, in the same rounds."""
    work, connections = bench.reference.work(1), bench.plan.some_connections
    servers = bench.serve([CAUSEWAY], bench.reference, work)
    bench.warm_up(servers, work, connections)
    runs, scrapes_ms = [], []
    for number in rounds(bench.plan.few_rounds):
        for server in servers:
            for is_scraped in bench.rng.permutation([True, False]):
                if is_scraped:
                    with _scraper(server.port) as took_ms:
                        scraped = bench.measure(server, work, number, connections, bench.plan.scraped_s)
                    runs.append(replace(scraped, contestant=SCRAPED))
                    scrapes_ms += took_ms
                else:
                    runs.append(bench.measure(server, work, number, connections, bench.plan.scraped_s))
    bench.check(bench.reference, work)
    return {**bench.told(runs, SCRAPED), "scrapes": len(scrapes_ms), "scrape_ms": summary.spread(scrapes_ms)}


@contextmanager
def _scraper(port: int) -> Iterator[list[float]]:
    """Asks /metrics every second while the context lasts; the milliseconds that each took."""
    is_over, took_ms = threading.Event(), []

    def scrape() -> None:
        while not is_over.wait(EVERY_S):
            begun = time.perf_counter()
            with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=30) as response:
                response.read()
            took_ms.append((time.perf_counter() - begun) * 1000)

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield took_ms
    finally:
        is_over.set()
        thread.join()
