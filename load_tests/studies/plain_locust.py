"""Plain Locust, as fair to it as can be: `constant_throughput`, and users whose turns are spread evenly.

A locustfile of its own, since Locust patches the process that imports it. With `--each 20` ten users ask every 5 ms,
until an answer is late.
"""

# Locust's hooks have no types:
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

import json
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

from locust import FastHttpUser, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.stats import PERCENTILES_TO_REPORT

START_S = 1.0
"""Before the first request: as long as a user ever waits."""


class Caller(FastHttpUser):
    """Asks the same thing again and again."""

    numbers = count()

    def on_start(self) -> None:
        """Waits for its turn.

        `constant_throughput` counts from when a user was made, and would bring all of them together again; once a whole
        pace has gone by it counts from now.
        """
        number, options = next(self.numbers), self.environment.parsed_options
        assert options
        assert self.environment.runner
        if number == 0:
            threading.Timer(START_S + options.seconds, self.environment.runner.quit).start()
        time.sleep(START_S + number / options.num_users / options.each)
        assert self.wait_time() == 0

    @task
    def ask(self) -> None:
        self.client.get("/")


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    parser.add_argument("--each", type=float, required=True, help="Requests a second of each user, at most")
    parser.add_argument("--seconds", type=float, required=True, help="From the first request to the end")
    parser.add_argument("--figures", type=Path, required=True, help="Where Locust's figures go")


@events.init.add_listener
def pace(environment: Environment, **_: Any) -> None:
    assert environment.parsed_options
    Caller.wait_time = constant_throughput(environment.parsed_options.each)


@events.quitting.add_listener
def keep(environment: Environment, **_: Any) -> None:
    """The percentiles that it reports, and its histogram of milliseconds as it rounds them."""
    assert environment.parsed_options
    seen = environment.stats.total
    figures = {
        "requests": seen.num_requests,
        "failures": seen.num_failures,
        "response_times": seen.response_times,
        "percentiles": {q: seen.get_response_time_percentile(q) for q in PERCENTILES_TO_REPORT},
    }
    environment.parsed_options.figures.write_text(json.dumps(figures))
