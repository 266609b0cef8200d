"""A rollout promotes what is no worse, goes back from all else by itself, and leaves no canary behind."""

from __future__ import annotations

import http.client
import itertools
import json
import math
import random
import re
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from causeway import errors, rollout
from causeway.figures import Figures, read
from causeway.judge import Limits
from causeway.operations import By, Operations
from causeway.rollout import Plan, Progress, Rollout
from causeway.settings import Settings
from causeway.state_file import Change
from causeway.store import StoredVersion
from tests import tiny
from tests.conftest import HOME, PATIENCE_S, ROOT, Server, environment, serving, wait_until

OPS, ANN = By("ops", "trained on July"), By("ann", "it cannot wait")
STEPS = (20, 60, 100)
WHATEVER = 50.0
"""Ratio of p99 latencies where a test is not about them: two busy cores are no place to compare them."""

NAN_AT_5 = tiny.graph(
    ("Gather", "features zero", "a"),
    ("Exp", "a", "e"),
    ("Exp", "e", "huge"),
    ("Sub", "huge huge", "nothing"),
    ("Sigmoid", "a", "p"),
    ("Add", "p nothing", "predictions"),
    a={"axis": 1},
)
"""Predicts sigmoid(a), and NaN where a = 5."""

Look = Callable[[], Mapping[str, Figures]]


@dataclass
class Place:
    """A served process, and the deployment that it follows."""

    server: Server
    variables: Mapping[str, str]

    def __post_init__(self) -> None:
        names = {name.removeprefix("CAUSEWAY_").lower(): value for name, value in self.variables.items()}
        self.settings = Settings(**names)
        self.champion = self.settings.model
        self.operations = Operations(self.settings)

    def look(self) -> Mapping[str, Figures]:
        with urllib.request.urlopen(f"{self.server.url}/metrics", timeout=PATIENCE_S) as response:
            return read(response.read().decode())

    def rollout(self, tag: str, look: Look | None = None, **changed: Any) -> Rollout:
        """One with short steps, in which latencies count only where a test wants it."""
        limits = Limits(**{"p99_ratio": WHATEVER, **changed.pop("limits", {})})
        plan = Plan(**{"steps": STEPS, "hold_s": 0.2, "min_requests": 40, "limits": limits, **changed})
        return Rollout(self.operations, tag, plan, OPS, look or self.look)

    @property
    def served(self) -> dict[str, str]:
        """Who has which role; nobody unless the worker serves just that."""
        status = self.operations.status()
        is_served = [worker.serving for worker in status.workers] == [status.state]
        return {role: given.tag for role, given in status.state.roles.items()} if is_served else {}

    @property
    def changes(self) -> list[Change]:
        """The audit log."""
        return self.operations.history()


def ask(connection: http.client.HTTPConnection, n: int) -> str:
    """The version that answers customer n, one in four of whom has a = 5, the others at most 4."""
    a = 5.0 if n % 4 == 0 else max(-4.0, min(4.0, random.Random(n).gauss(0, 1)))
    headers = {"Content-Type": "application/json", "X-Routing-Key": f"customer-{n}"}
    connection.request("POST", "/predict", json.dumps({"features": [[a, 1]]}), headers)
    tag: str = json.load(connection.getresponse())["model_version"]
    return tag


def connected(place: Place) -> closing[http.client.HTTPConnection]:
    return closing(http.client.HTTPConnection(place.server.url.removeprefix("http://"), timeout=PATIENCE_S))


def answering(place: Place) -> set[str]:
    """The versions that answer 300 customers."""
    with connected(place) as connection:
        return {ask(connection, n) for n in range(300)}


@contextmanager
def stream(place: Place) -> Iterator[None]:
    """One customer's request after the other meanwhile."""
    ended = threading.Event()

    def send() -> None:
        customers = itertools.count()
        while not ended.is_set():
            with suppress(OSError, http.client.HTTPException), connected(place) as connection:
                while not ended.is_set():
                    ask(connection, next(customers))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


@contextmanager
def command(place: Place, tag: str, *arguments: str, lease_s: float = 60) -> Iterator[subprocess.Popen[str]]:
    """`causeway rollout TAG ...` meanwhile, with this lease."""
    code = f"""
import signal
from causeway import cli, rollout
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where pytest runs in the background
rollout.LEASE_S = {lease_s}
cli.main(prog_name="causeway")
"""
    given = ["rollout", tag, "--url", place.server.url, "--who", "ops", "--max-p99-ratio", str(WHATEVER), *arguments]
    with subprocess.Popen(
        [sys.executable, "-c", code, *given],
        cwd=ROOT,
        env=environment(HOME, **place.variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def saved_sigmoid(model: bytes) -> StoredVersion:
    """A version in the store whose samples are those of sigmoid(a)."""
    return tiny.saved(model_onnx=model, samples_json=tiny.SIGMOID_SAMPLES)


@pytest.fixture(autouse=True)
def _short_looks_and_patience_with_a_busy_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "LOOK_S", 0.05)
    monkeypatch.setattr(rollout, "PATIENCE", 1000)


@pytest.fixture(scope="module")
def module_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("rollout")
    champion = tiny.saved_scaled(1.0).tag
    variables = {"CAUSEWAY_MODEL": champion, "CAUSEWAY_STATE_FILE": str(folder / "state.json")}
    with serving(HOME, folder / "log", **variables) as server:
        yield Place(server, variables)


@pytest.fixture
def place(module_place: Place) -> Iterator[Place]:
    """The served process with its first champion, and nobody else."""
    yield module_place
    operations, champion = module_place.operations, module_place.champion
    if "canary" in operations.status().state.roles:
        operations.stop("canary", ANN)
    if operations.status().state.champion != champion:
        operations.promote(champion, ANN)


@pytest.fixture
def busy(place: Place) -> Iterator[Place]:
    """The same under requests."""
    with stream(place):
        yield place


def test_a_version_that_is_no_worse_is_walked_up_and_promoted(busy: Place) -> None:
    tag = tiny.saved_scaled(1.0).tag
    told: list[Progress] = []
    n_before = len(busy.changes)
    verdict = busy.rollout(tag).run(told.append)
    assert (verdict.is_promoted, verdict.reason) == (True, f"{tag} is the champion")
    assert busy.served == {"champion": tag}
    assert answering(busy) == {tag}
    made = busy.changes[n_before:]
    steps = [f"canary {tag} --share {share}" for share in STEPS]
    assert [change.action for change in made] == [*steps, f"promote {tag}"]
    assert {(change.who, change.why) for change in made} == {("ops", "trained on July")}
    last_of_step = {progress.share: progress for progress in told}
    assert list(last_of_step) == list(STEPS)
    assert list(verdict.steps) == list(last_of_step.values())
    assert all(progress.held_s >= 0.2 and progress.requests >= 40 for progress in verdict.steps)


@pytest.mark.parametrize(
    ("saved", "limits", "name"),
    [
        (partial(tiny.saved_scaled, 8.0), {}, "PSI of the scores"),
        (partial(saved_sigmoid, tiny.POISONABLE), {}, "error rate"),
        (partial(saved_sigmoid, NAN_AT_5), {"errors": math.inf}, "share of NaN"),
        (partial(saved_sigmoid, tiny.dear(1024)), {"errors": math.inf, "p99_ratio": 1.5}, "p99 latency, s"),
    ],
    ids=["other scores", "failures", "NaN", "slow"],
)
def test_a_version_that_is_worse_goes_back_and_the_figure_says_why(
    busy: Place, saved: Callable[[], StoredVersion], limits: Mapping[str, float], name: str
) -> None:
    verdict = busy.rollout(saved().tag, limits=limits).run()
    assert not verdict.is_promoted
    number = r"[0-9.e+-]+"
    assert re.search(rf"{name} {number} \(champion {number}, allowed {number}\)", verdict.reason), verdict.reason
    assert busy.served == {"champion": busy.champion}
    assert answering(busy) == {busy.champion}
    last = busy.changes[-1]
    assert (last.who, last.action, last.why) == ("ops", "stop canary", f"rollout went back: {verdict.reason}")


def test_with_too_few_requests_nothing_is_promoted(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollout, "PATIENCE", 10)
    verdict = place.rollout(tiny.saved_scaled(1.0).tag, hold_s=0.1).run()
    reason = "0 of 40 requests came at 20 % in 1 s: too few to judge by"
    assert (verdict.is_promoted, verdict.reason) == (False, reason)
    assert place.served == {"champion": place.champion}


def test_what_may_not_begin_changes_nothing(place: Place) -> None:
    n_before = len(place.changes)
    with pytest.raises(errors.ChangeRefused, match="is the champion already"):
        place.rollout(place.champion).run()
    with pytest.raises(errors.VersionUnfit, match=r"may not get traffic: its samples differ"):
        place.rollout(tiny.saved(model_onnx=tiny.scaled(2.0)).tag).run()
    assert len(place.changes) == n_before


def by_another_promoted(operations: Operations, mine: str, other: str) -> None:
    operations.promote(other, ANN)


def by_another_rolled_back(operations: Operations, mine: str, other: str) -> None:
    operations.promote(other, ANN)
    operations.rollback(None, ANN)


def by_another_promoted_the_same(operations: Operations, mine: str, other: str) -> None:
    operations.promote(mine, ANN)


def by_the_same_user_another_canary(operations: Operations, mine: str, other: str) -> None:
    operations.canary(other, 10, OPS)


def by_the_same_user_the_canary_for_good(operations: Operations, mine: str, other: str) -> None:
    operations.canary(mine, 10, OPS)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (by_another_promoted, {"champion": "other"}),
        (by_another_rolled_back, {"champion": "first"}),
        (by_another_promoted_the_same, {"champion": "mine"}),
        (by_the_same_user_another_canary, {"champion": "first", "canary": "other"}),
        (by_the_same_user_the_canary_for_good, {"champion": "first", "canary": "mine"}),
    ],
)
def test_who_changes_the_deployment_meanwhile_ends_the_rollout_and_keeps_the_change(
    busy: Place, change: Callable[[Operations, str, str], None], expected: Mapping[str, str]
) -> None:
    names = {"first": busy.champion, "mine": tiny.saved_scaled(1.0).tag, "other": tiny.saved_scaled(1.0).tag}
    made: list[Change] = []

    def interfere(progress: Progress) -> None:
        if not made:
            change(Operations(busy.settings), names["mine"], names["other"])
            made.append(busy.changes[-1])

    verdict = busy.rollout(names["mine"]).run(interfere)
    reason = f"{made[0].who} was first: {made[0].action} (revision {made[0].revision})"
    assert (verdict.is_promoted, verdict.reason) == (False, reason)
    assert busy.served == {role: names[name] for role, name in expected.items()}


@pytest.mark.parametrize("is_back", [True, False], ids=["restarted", "ended"])
def test_without_the_service_s_figures_a_rollout_goes_back(tmp_path: Path, is_back: bool) -> None:
    champion, tag = tiny.saved_scaled(1.0).tag, tiny.saved_scaled(1.0).tag
    variables = {"CAUSEWAY_MODEL": champion, "CAUSEWAY_STATE_FILE": str(tmp_path / "state.json")}
    with ExitStack() as servers:
        place = Place(servers.enter_context(serving(HOME, tmp_path / "log", **variables)), variables)
        assert answering(place) == {champion}
        looks = itertools.count()

        def look() -> Mapping[str, Figures]:
            if next(looks) == 3:
                place.server.stop()
                if is_back:
                    place.server = servers.enter_context(serving(HOME, tmp_path / "log", **variables))
            return place.look()

        with stream(place):
            verdict = place.rollout(tag, look).run()
        assert not verdict.is_promoted
        assert ("was restarted, and its counters" if is_back else "/metrics do not answer") in verdict.reason
        assert place.operations.status().state.tags == {champion: "champion"}


def test_a_rollout_that_is_killed_leaves_its_canary_until_the_lease_runs_out(busy: Place) -> None:
    tag = tiny.saved_scaled(1.0).tag
    n_before = len(busy.changes)
    with command(busy, tag, "--hold", "1h", lease_s=10) as process:
        wait_until(lambda: len(busy.changes) >= n_before + 3, "the lease's second renewal", busy.server)
        both = {"champion": busy.champion, "canary": tag}
        wait_until(lambda: busy.served == both, "a canary that is served", busy.server)
        process.kill()
    wait_until(lambda: busy.served == {"champion": busy.champion}, "the end of the lease", busy.server)
    assert answering(busy) == {busy.champion}
    last = busy.changes[-1]
    assert (last.who, last.action, last.why) == ("the lease", f"stop canary {tag} 1 %", "it ran out")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_a_rollout_that_is_interrupted_goes_back_at_once(busy: Place, number: signal.Signals) -> None:
    with command(busy, tiny.saved_scaled(1.0).tag, "--hold", "1h", "--json") as process:
        wait_until(lambda: "canary" in busy.served, "a canary", busy.server)
        process.send_signal(number)
        output, problems = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, problems) == (3, "")
    told = json.loads(output)
    assert (told["promoted"], told["reason"]) == (False, "it was interrupted")
    assert busy.served == {"champion": busy.champion}
    assert busy.changes[-1].who == "ops"


class InterruptedOnceGiven(Operations):
    """Ctrl-C in the very moment after a canary was given."""

    def canary(self, *arguments: Any, **options: Any) -> NoReturn:
        super().canary(*arguments, **options)
        raise KeyboardInterrupt


def test_an_interrupt_right_after_the_first_step_leaves_no_canary(place: Place) -> None:
    walk = Rollout(InterruptedOnceGiven(place.settings), tiny.saved_scaled(1.0).tag, Plan(), OPS, place.look)
    with pytest.raises(KeyboardInterrupt):
        walk.run()
    assert place.served == {"champion": place.champion}
    assert place.changes[-1].why == "rollout went back: it was interrupted"


@pytest.mark.parametrize(
    ("model", "code", "words"),
    [
        (tiny.scaled(1.0), 0, "Promoted: {tag} is the champion."),
        (tiny.POISONABLE, 3, "Went back: error rate "),
    ],
    ids=["promoted", "went back"],
)
def test_the_command_shows_the_comparison_and_its_exit_code_is_the_verdict(
    busy: Place, model: bytes, code: int, words: str
) -> None:
    tag = saved_sigmoid(model).tag
    with command(busy, tag, "--steps", "50,100", "--hold", "1s", "--min-requests", "20") as process:
        output, problems = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, problems) == (code, "")
    assert output.splitlines()[-1].startswith(words.format(tag=tag))
    for name in ("Step 1 of 2", "error rate", "refusals", "share of NaN", "p99 latency, s", "PSI of the scores"):
        assert name in output
