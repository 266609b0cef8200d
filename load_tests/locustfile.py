"""Locust's users: `locust -f load_tests/locustfile.py --host http://127.0.0.1:3000`, and its page is at port 8089.

Three kinds of users send rows of the held-out period under the routing keys of its customers: `One` asks about one row,
`Many` about `--many-rows`, and `Bulk` about as many with `X-Priority: bulk`. A user waits for a second on average after
each answer, so a server that answers quickly gets about as many requests a second as there are users. `--tags one many`
or names of users choose among them. The rows take some seconds to simulate, at the start; Locust's workers do it when
they are connected, and within `--run-time`.

In the statistics, rows of type POST have the answers, and among their failures those with wrong content. Refusals (503,
504, 429) have rows of their own, of type REFUSED, so that quick refusals do not make the answers look quick; each is a
failure and named by its code. The exit code is Locust's: 1 where any request failed.
"""

# Locust's hooks have no types:
# mypy: disable-error-code="untyped-decorator, no-untyped-call"

from __future__ import annotations

import logging
import random
import sys
import threading
from argparse import ArgumentTypeError
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar

import gevent  # type: ignore[import-untyped]
import msgspec
from locust import FastHttpUser, events, poisson, tag, task
from locust.argument_parser import LocustArgumentParser
from locust.contrib.fasthttp import ResponseContextManager
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT))  # at the end: Locust removes the first one again

from load_tests.open_loop.offered import REFUSALS  # noqa: E402
from load_tests.traffic import Answers, Traffic, mix  # noqa: E402

MIX = {"one": 8, "many": 1, "bulk": 1}
"""Of ten users."""
CLOSED_LOOP = (
    "Locust's loop is closed: a user waits for its answer before it asks again, so a server that is too slow is asked "
    "less and its latencies look better than they are. `make load-test` sends on a schedule and counts from the moment "
    "at which a request was meant to go out."
)

_logger = logging.getLogger(__name__)
_preparing = threading.RLock()
"""A worker may be told to start while it still prepares."""


@dataclass(frozen=True)
class Pool:
    """What the users send, and whether answers to it are right."""

    traffic: Traffic

    @cached_property
    def places(self) -> Mapping[str, list[int]]:
        """Of the requests, by kind of user."""
        requests = self.traffic.requests
        return {kind: [place for place, asked in enumerate(requests) if asked.kind == kind] for kind in MIX}

    @cached_property
    def answers(self) -> Answers:
        """What is wrong with them, where anything is."""
        return Answers(self.traffic.rows)


class Caller(FastHttpUser):
    """A user that sends requests of one kind."""

    abstract = True
    wait_time = poisson(1)
    pool: ClassVar[Pool]
    """Set before the first user starts."""

    def on_start(self) -> None:
        """Waits: users that are started together do not ask together."""
        self.wait()

    def ask(self, kind: str) -> None:
        """Sends any request of the kind, and reports what came back."""
        place = random.choice(self.pool.places[kind])  # noqa: S311
        asked = self.pool.traffic.requests[place]
        headers = {"Content-Type": "application/json", **asked.headers}
        body: Any = asked.body  # not the str that Locust's types ask for
        with self.client.post(
            "/predict", data=body, headers=headers, name=f"/predict ({kind})", catch_response=True
        ) as answer:
            if answer.status_code in REFUSALS:
                answer.request_meta["request_type"] = "REFUSED"
                answer.failure(f"refused: {answer.status_code} {code(answer)}".rstrip())
            elif answer.status_code == 200 and (fault := self.pool.answers.fault(place, answer.content)):
                answer.failure(f"wrong: {fault}")


class One(Caller):
    """Asks about one row."""

    weight = MIX["one"]

    @tag("one")
    @task
    def predict(self) -> None:
        self.ask("one")


class Many(Caller):
    """Asks about many rows at once."""

    weight = MIX["many"]

    @tag("many")
    @task
    def predict(self) -> None:
        self.ask("many")


class Bulk(Caller):
    """Asks about many rows at once, and can wait."""

    weight = MIX["bulk"]

    @tag("bulk")
    @task
    def predict(self) -> None:
        self.ask("bulk")


@events.init_command_line_parser.add_listener
def add_options(parser: LocustArgumentParser) -> None:
    """Ours among Locust's options, and on its page."""
    parser.add_argument("--many-rows", type=_rows, default=100, help="Rows in a request of Many and Bulk")
    parser.add_argument("--seed", type=int, default=0, help="Of the simulated rows")


def _rows(text: str) -> int:
    """A number of rows. Raises `ArgumentTypeError`."""
    if not text.isdecimal() or not int(text):
        raise ArgumentTypeError(f"{text!r} is no number of rows")
    return int(text)


@events.init.add_listener
def leave_out(environment: Environment, **_: Any) -> None:
    """Users without the tags that were asked for: Locust would start them, and fail for want of a task."""
    options = environment.parsed_options
    assert options
    wanted, unwanted = set(options.tags or MIX), set(options.exclude_tags or ())
    users = [user for user in environment.user_classes if tags(user) & wanted - unwanted]
    if not users:
        sys.exit(f"no user is left; the tags are {', '.join(MIX)}")
    environment.user_classes[:] = users


@events.init.add_listener
@events.test_start.add_listener
def prepare(environment: Environment, **_: Any) -> None:
    """What the users of this process send; a test started on the page may have other options than the one before."""
    options = environment.parsed_options
    assert options
    if not isinstance(environment.runner, MasterRunner):
        with _preparing:
            Caller.pool = gevent.get_hub().threadpool.apply(pool, (options.many_rows, options.seed))


@events.test_stop.add_listener
def say_that_the_loop_is_closed(environment: Environment, **_: Any) -> None:
    if not isinstance(environment.runner, WorkerRunner):
        _logger.warning(CLOSED_LOOP)


@lru_cache(1)
def pool(many_rows: int, seed: int) -> Pool:
    """The requests of a mix. In a thread: it takes seconds, and Locust gives up workers that are silent for three."""
    text = ",".join(f"{kind}={weight}" for kind, weight in MIX.items())
    return Pool(Traffic.from_held_out(mix(text, many_rows=many_rows), seed))


def tags(user: type[Any]) -> set[str]:
    """Of a user's tasks."""
    return {name for done in user.tasks for name in done.locust_tag_set}


def code(answer: ResponseContextManager) -> str:
    """Why the service refused; empty where a proxy did, which tells it otherwise."""
    try:
        return str(msgspec.json.decode(answer.content)["code"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return ""
