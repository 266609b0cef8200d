"""Workers serve what the state file says, swap without losing a request, and say why where they cannot."""

from __future__ import annotations

import json
import shutil
import threading
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from itertools import cycle
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import structlog
from prometheus_client import CollectorRegistry

from causeway import errors, roll_call, state
from causeway.deployment import Deployment, pinned, state_path
from causeway.errors import NotReady
from causeway.monitoring.metrics import Metrics
from causeway.operations import By, Operations
from causeway.routing import Shares
from causeway.settings import Settings
from causeway.state import State
from causeway.state_file import StateFile
from tests import tiny
from tests.conftest import HOME, PATIENCE_S, Server, serving, wait_until
from tests.monitoring.test_metrics import scraped

METRICS = Metrics(CollectorRegistry())
ME = By("me@here", "a test")
FEATURES = [[a, 1.0] for a in np.linspace(-2, 2, 9).tolist()]
N_WORKERS = 2


class Deployed:
    """A served state file, the hand that changes it, and the versions by what they predict: sigmoid(by * a)."""

    def __init__(self, server: Server, operations: Operations, versions: dict[float, str]) -> None:
        self.server = server
        self.operations = operations
        self.versions = versions
        self.by = {tag: by for by, tag in versions.items()}

    def ask(self, client: httpx.Client | None = None, **headers: str) -> dict[str, Any]:
        """An answer, which must be what the version that it names predicts."""
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        post = client.post if client else httpx.post
        reply = post(f"{self.server.url}/predict", json={"features": FEATURES}, headers=names, timeout=PATIENCE_S)
        assert reply.status_code == 200, reply.text
        answer: dict[str, Any] = reply.json()
        expected = tiny.sigmoid(FEATURES, self.by[answer["model_version"]])
        np.testing.assert_allclose(answer["predictions"], expected, atol=1e-5)
        return answer

    def health(self) -> Any:
        return httpx.get(f"{self.server.url}/health", timeout=PATIENCE_S).json()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.server.log.read_text().splitlines() if line.startswith("{")]


@pytest.fixture(scope="module")
def versions() -> dict[float, str]:
    """Tags of versions that predict sigmoid(by * a), by what they multiply with."""
    return {by: tiny.saved_scaled(by).tag for by in (1.0, 2.0, 3.0)}


def operations(folder: Path, model: str) -> Operations:
    return Operations(Settings(model=model, state_file=str(folder / "state.json")))


@pytest.fixture(scope="module")
def deployed(versions: dict[float, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Two workers that serve the first version, until a test changes that."""
    folder = tmp_path_factory.mktemp("deployed")
    settings = {"MODEL": versions[1.0], "STATE_FILE": str(folder / "state.json"), "WORKERS": str(N_WORKERS)}
    with serving(HOME, folder / "log", **{f"CAUSEWAY_{name}": value for name, value in settings.items()}) as server:
        workers = folder / "workers"
        wait_until(lambda: len(roll_call.call(workers)) == N_WORKERS, "both workers", server)
        yield Deployed(server, operations(folder, versions[1.0]), versions)


def test_before_it_starts_nothing_answers() -> None:
    with pytest.raises(NotReady, match="it is being loaded"):
        _ = Deployment(Settings(), METRICS).champion


def test_the_version_that_the_settings_name_becomes_champion() -> None:
    stored = tiny.saved()
    tiny.saved()
    deployment = Deployment(Settings(model=stored.tag), METRICS)
    deployment.start()
    assert deployment.is_ready
    assert deployment.champion.role == "champion"
    assert deployment.champion.version.tag == stored.tag


@pytest.mark.parametrize("tag", ["tiny:nosuchversion", "nosuchmodel:latest"])
def test_a_model_that_is_not_there_is_the_reason(tag: str) -> None:
    deployment = Deployment(Settings(model=tag), METRICS)
    with structlog.testing.capture_logs() as events:
        deployment.start()
    assert not deployment.is_ready
    with pytest.raises(NotReady, match=tag):
        _ = deployment.champion
    assert [(event["event"], event["model_version"]) for event in events] == [("version_refused", tag)]


@pytest.mark.parametrize(
    ("tag", "built_with", "expected"),
    [
        ("fraud:latest", [], "fraud:latest"),
        ("fraud:latest", ["fraud:a1"], "fraud:a1"),
        ("fraud:b2", ["fraud:a1"], "fraud:b2"),
        ("other:latest", ["fraud:a1", "other:c3"], "other:c3"),
        ("fraud:latest", ["other:c3"], "other:c3"),
    ],
)
def test_latest_in_a_bento_is_the_version_that_it_was_built_with(
    tag: str, built_with: list[str], expected: str
) -> None:
    assert pinned(tag, built_with) == expected


def test_a_change_is_served_by_every_worker_when_it_is_reported_done(deployed: Deployed) -> None:
    for by in (2.0, 3.0):
        done = deployed.operations.promote(deployed.versions[by], ME)
        assert done.workers == N_WORKERS
        assert {deployed.ask()["model_version"] for _ in range(20)} == {deployed.versions[by]}
    assert deployed.operations.rollback(None, ME).change.after.champion == deployed.versions[2.0]
    assert {deployed.ask()["model_version"] for _ in range(20)} == {deployed.versions[2.0]}
    deployed.operations.rollback(None, ME)


def test_fifty_swaps_under_load_lose_no_request_and_mix_up_no_answer(deployed: Deployed) -> None:
    is_over, seen, failures = threading.Event(), Counter[str](), list[BaseException]()

    def caller() -> None:
        with httpx.Client() as client:
            while not is_over.is_set():
                try:
                    seen[deployed.ask(client)["model_version"]] += 1
                except BaseException as exc:
                    failures.append(exc)

    callers = [threading.Thread(target=caller) for _ in range(4)]
    for thread in callers:
        thread.start()
    try:
        for _, by in zip(range(50), cycle((2.0, 3.0, 1.0)), strict=False):
            deployed.operations.promote(deployed.versions[by], ME)
    finally:
        is_over.set()
        for thread in callers:
            thread.join()
    assert not failures
    assert seen.keys() == set(deployed.versions.values())
    deployed.operations.promote(deployed.versions[1.0], ME)


def test_a_version_can_be_pinned_where_it_is_loaded(deployed: Deployed) -> None:
    champion, canary, absent = deployed.versions.values()
    deployed.operations.canary(canary, 1, ME)
    for tag, role in ((champion, "champion"), (canary, "canary")):
        answers = [deployed.ask(X_Model_Version=tag) for _ in range(10)]
        assert {(answer["model_version"], answer["variant"]) for answer in answers} == {(tag, role)}
    headers = {"X-Model-Version": absent}
    reply = httpx.post(f"{deployed.server.url}/predict", json={"features": FEATURES}, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (404, "version_not_loaded")
    assert reply.json()["loaded"] == [champion, canary]
    deployed.operations.stop("canary", ME)


def test_a_routing_key_has_the_variant_that_the_shares_give_it_in_every_worker(deployed: Deployed) -> None:
    deployed.operations.canary(deployed.versions[2.0], 30, ME)
    after = deployed.operations.challenger(deployed.versions[3.0], 30, ME).change.after
    shares = Shares.of(after)
    keys = [f"customer {number}" for number in range(60)]
    for _ in range(2):  # a connection each, so that both workers answer
        assert {key: deployed.ask(X_Routing_Key=key)["variant"] for key in keys} == {k: shares.role(k) for k in keys}
    assert {shares.role(key) for key in keys} == {"champion", "canary", "challenger"}
    counted = scraped(deployed.server)
    for role, given in after.roles.items():
        assert counted[f'causeway_deployed{{model_version="{given.tag}",variant="{role}"}}'] == {"champion": 40}.get(
            role, 30
        )
    deployed.operations.stop("canary", ME)
    deployed.operations.stop("challenger", ME)


def test_a_lease_ends_whatever_became_of_the_state_file(deployed: Deployed) -> None:
    champion, canary, _ = deployed.versions.values()
    deployed.operations.canary(canary, 100, ME, until=state.now() + timedelta(seconds=5))
    deployed.operations.file.path.write_bytes(b"{")
    wait_until(lambda: "canary" not in deployed.health()["details"]["roles"], "the end of the lease", deployed.server)
    assert "makes no sense" in deployed.health()["details"]["problem"]
    wait_until(lambda: {deployed.ask()["variant"] for _ in range(20)} == {"champion"}, "the champion", deployed.server)
    deployed.operations.promote(deployed.versions[3.0], ME)
    deployed.operations.promote(champion, ME)


def test_workers_stay_on_the_list_when_their_folder_is_removed(deployed: Deployed) -> None:
    workers = deployed.operations.file.folder / "workers"
    before = [report.pid for report in roll_call.call(workers)]
    shutil.rmtree(workers)
    wait_until(lambda: [report.pid for report in roll_call.call(workers)] == before, "both workers", deployed.server)


def test_a_state_file_that_is_gone_changes_nothing_and_is_told(deployed: Deployed) -> None:
    deployed.operations.promote(deployed.versions[2.0], ME)
    deployed.operations.file.path.unlink()
    wait_until(lambda: "it is gone" in str(deployed.health()["details"]), "a problem", deployed.server)
    assert deployed.ask()["model_version"] == deployed.versions[2.0]
    status = deployed.operations.status()
    assert (status.source, status.state.champion) == ("workers", deployed.versions[2.0])
    assert (
        Started(deployed.operations.file.folder, deployed.versions[3.0]).deployment.champion.version.tag
        == (deployed.versions[2.0])
    )
    deployed.operations.promote(deployed.versions[1.0], ME)


def test_a_forced_rollback_does_not_wait_for_a_worker_that_hangs(deployed: Deployed) -> None:
    deployed.operations.promote(deployed.versions[2.0], ME)
    workers = roll_call.call(deployed.operations.file.folder / "workers")
    hung = psutil.Process(workers[0].pid)
    hung.suspend()
    try:
        done = deployed.operations.rollback(None, ME, is_forced=True)
        assert (done.workers, str(hung.pid) in str(done.unserved)) == (N_WORKERS - 1, True)
        assert deployed.operations.status().state.champion == deployed.versions[1.0]
    finally:
        hung.resume()
    wait_until(lambda: {deployed.ask()["model_version"] for _ in range(20)} == {deployed.versions[1.0]}, "the other")


def test_of_two_operators_who_set_out_at_the_same_time_the_second_is_told(deployed: Deployed) -> None:
    began = state.now()
    deployed.operations.promote(deployed.versions[2.0], By("ann", began=began))
    with pytest.raises(errors.ChangeConflict, match="ann was first: promote"):
        deployed.operations.rollback(None, By("bob", began=began))
    deployed.operations.rollback(None, By("bob", began=state.now()))


def test_an_edit_by_hand_is_followed_and_found_in_the_audit_log(deployed: Deployed) -> None:
    one, two, three = deployed.versions.values()
    deployed.operations.promote(two, ME)
    deployed.operations.file.path.write_bytes(State.of(three).to_json())
    wait_until(lambda: deployed.health()["version"] == three, "the edit", deployed.server)
    deployed.operations.promote(one, ME)
    promoted, edited, again = deployed.operations.history()[-3:]
    assert (edited.who, edited.action, edited.before) == ("somebody", "edit state.json", promoted.after)
    assert edited.after == again.before == State.of(three)


def test_a_state_file_that_makes_no_sense_changes_nothing_and_everybody_is_told(deployed: Deployed) -> None:
    file = deployed.operations.file
    deployed.operations.promote(deployed.versions[2.0], ME)
    good = file.path.read_bytes()
    file.path.write_bytes(good[: len(good) // 2])
    wait_until(
        lambda: not any(is_true(line) for line in followed(deployed.server)), "a gauge of both workers", deployed.server
    )
    told = deployed.health()
    assert (told["status"], told["version"]) == ("healthy", deployed.versions[2.0])
    assert "state.json makes no sense" in told["details"]["problem"]
    assert deployed.ask()["model_version"] == deployed.versions[2.0]
    assert "state_not_followed" in [event["event"] for event in deployed.events]
    # A change repairs it: the audit log has what was in force.
    deployed.operations.promote(deployed.versions[1.0], ME)
    assert deployed.ask()["model_version"] == deployed.versions[1.0]
    wait_until(lambda: "problem" not in deployed.health()["details"], "no problem", deployed.server)
    wait_until(lambda: all(is_true(line) for line in followed(deployed.server)), "the gauges", deployed.server)
    assert len(followed(deployed.server)) == N_WORKERS


def followed(server: Server) -> list[tuple[str, float]]:
    return [(name, value) for name, value in scraped(server).items() if name.startswith("causeway_state_followed{")]


def is_true(sample: tuple[str, float]) -> bool:
    return sample[1] == 1


def test_a_canary_whose_lease_ran_out_gets_nothing_more(deployed: Deployed) -> None:
    champion, canary, _ = deployed.versions.values()
    deployed.operations.canary(canary, 100, ME, until=state.now() + timedelta(seconds=3))
    assert deployed.ask()["model_version"] == canary
    wait_until(lambda: "canary" not in deployed.health()["details"]["roles"], "the end of the lease", deployed.server)
    wait_until(lambda: deployed.operations.status().state.shared == 0, "the state without it", deployed.server)
    last = deployed.operations.history()[-1]
    assert (last.who, last.action) == ("the lease", f"stop canary {canary} 100 %")
    # Each worker looks at its own clock, so that the other may still be about to.
    everywhere = "the champion from both workers"
    wait_until(lambda: {deployed.ask()["model_version"] for _ in range(20)} == {champion}, everywhere, deployed.server)


def test_a_shadow_scores_what_the_champion_answers_and_is_never_returned(deployed: Deployed) -> None:
    shadow = deployed.versions[3.0]
    deployed.operations.shadow(shadow, ME)
    before = scraped(deployed.server)
    for _ in range(20):
        assert deployed.ask()["variant"] == "champion"

    def more(name: str) -> float:
        return scraped(deployed.server).get(name, 0) - before.get(name, 0)

    def rows(result: str) -> float:
        return more(f'causeway_shadow_rows_total{{model_version="{shadow}",result="{result}"}}')

    n_rows = 20 * len(FEATURES)
    wait_until(lambda: rows("scored") + rows("dropped") == n_rows, "the shadow's work", deployed.server)
    assert rows("scored") == more(f'causeway_shadow_differences_count{{model_version="{shadow}"}}') > 0
    wait_until(lambda: more(f'causeway_scores_count{{model_version="{shadow}"}}') > 0, "its scores", deployed.server)
    deployed.operations.stop("shadow", ME)


def test_a_worker_that_cannot_serve_a_change_has_it_undone_everywhere(deployed: Deployed, tmp_path: Path) -> None:
    """Another server on the same state file has only some of the versions."""
    champion, known, unknown = deployed.versions.values()
    for tag in (champion, known):
        (tmp_path / "models" / "tiny").mkdir(parents=True, exist_ok=True)
        version = tag.partition(":")[2]
        (tmp_path / "models" / "tiny" / version).symlink_to(HOME / "models" / "tiny" / version)
    folder = deployed.operations.file.folder
    variables = {"CAUSEWAY_MODEL": champion, "CAUSEWAY_STATE_FILE": str(deployed.operations.file.path)}
    with serving(tmp_path, tmp_path / "log", **variables) as beside:
        wait_until(lambda: len(roll_call.call(folder / "workers")) == N_WORKERS + 1, "three workers", beside)
        assert deployed.operations.promote(known, ME).workers == N_WORKERS + 1
        before = deployed.operations.status().state
        with pytest.raises(errors.ChangeUndone, match=f"has no version {unknown}"):
            deployed.operations.promote(unknown, ME)
        after = deployed.operations.status().state
        assert (after.roles, after.previous) == (before.roles, before.previous)
        assert [change.action for change in deployed.operations.history()[-2:]] == [
            f"promote {unknown}",
            f"undo promote {unknown}",
        ]
        workers = folder / "workers"
        wait_until(lambda: all(each.serving == after for each in roll_call.call(workers)), "the old state", beside)
        for server in (deployed.server, beside):
            assert httpx.get(f"{server.url}/health").json()["version"] == known
    deployed.operations.rollback(None, ME)


def test_a_worker_that_was_killed_comes_back_with_what_the_others_serve(
    versions: dict[float, str], tmp_path: Path
) -> None:
    """Also where nothing was ever changed, and the store has a newer version than `latest` was at the start."""
    newest = tiny.saved_scaled(4.0).tag
    state_file = str(tmp_path / "state.json")
    with serving(HOME, tmp_path / "log", CAUSEWAY_MODEL="tiny:latest", CAUSEWAY_STATE_FILE=state_file) as server:
        tiny.saved_scaled(5.0)
        first, *_ = roll_call_of(tmp_path, server)
        psutil.Process(first).kill()
        wait_until(
            lambda: [pid for pid in roll_call_of(tmp_path, server) if pid != first] != [], "a new worker", server
        )
        assert httpx.get(f"{server.url}/health", timeout=PATIENCE_S).json()["version"] == newest


def roll_call_of(folder: Path, server: Server) -> list[int]:
    reports = list[roll_call.Report]()

    def are_there() -> bool:
        reports[:] = roll_call.call(folder / "workers")
        return bool(reports)

    wait_until(are_there, "a worker", server)
    return [report.pid for report in reports]


def test_a_mounted_state_file_is_followed_where_nothing_can_be_written(
    versions: dict[float, str], tmp_path: Path
) -> None:
    """As Kubernetes mounts a ConfigMap: links to a folder that another replaces; nobody may write beside them."""
    first, second, _ = versions.values()
    mount = tmp_path / "mount"
    for name, tag in (("one", first), ("two", second)):
        (mount / name).mkdir(parents=True)
        (mount / name / "state.json").write_bytes(State.of(tag).to_json())
    (mount / "..data").symlink_to("one")
    (mount / "state.json").symlink_to("..data/state.json")
    (mount / "workers").write_text("not a folder, so nothing can be written there")
    variables = {"CAUSEWAY_MODEL": versions[3.0], "CAUSEWAY_STATE_FILE": str(mount / "state.json")}
    variables["CAUSEWAY_MONITORING"] = "off"  # the prediction log takes a folder that can be written, as here by root
    with serving(HOME, tmp_path / "log", **variables) as server:
        assert httpx.get(f"{server.url}/health").json()["version"] == first
        (mount / "..new").symlink_to("two")
        (mount / "..new").rename(mount / "..data")
        wait_until(lambda: httpx.get(f"{server.url}/health").json()["version"] == second, "the other", server)
    assert sorted(path.name for path in mount.iterdir()) == ["..data", "one", "state.json", "two", "workers"]


class Started:
    """A deployment in this process, started on a state file."""

    def __init__(self, folder: Path, model: str) -> None:
        self.deployment = Deployment(Settings(model=model, state_file=str(folder / "state.json")), METRICS)
        with structlog.testing.capture_logs() as self.events:
            self.deployment.start()


def test_the_state_file_wins_over_the_setting(versions: dict[float, str], tmp_path: Path) -> None:
    (tmp_path / "state.json").write_bytes(State.of(versions[2.0]).to_json())
    assert Started(tmp_path, versions[1.0]).deployment.champion.version.tag == versions[2.0]


def test_with_a_broken_file_the_last_state_of_the_audit_log_is_served(
    versions: dict[float, str], tmp_path: Path
) -> None:
    hand = operations(tmp_path, versions[1.0])
    hand.promote(versions[2.0], ME)
    hand.file.path.write_bytes(b"{")
    started = Started(tmp_path, versions[1.0]).deployment
    assert started.champion.version.tag == versions[2.0]
    assert started.problem is not None
    assert "makes no sense" in started.problem


def test_with_a_broken_file_and_no_audit_log_nothing_is_served_until_it_is_mended(
    versions: dict[float, str], tmp_path: Path
) -> None:
    file = tmp_path / "state.json"
    file.write_bytes(b"{}")
    variables = {"CAUSEWAY_MODEL": versions[1.0], "CAUSEWAY_STATE_FILE": str(file)}
    with serving(HOME, tmp_path / "log", **variables) as server:
        reply = httpx.get(f"{server.url}/health")
        assert (reply.status_code, reply.json()["code"]) == (503, "not_ready")
        assert "state.json makes no sense" in reply.json()["reason"]
        file.write_bytes(State.of(versions[2.0]).to_json())
        wait_until(lambda: httpx.get(f"{server.url}/readyz").status_code == 200, "a version", server)
        assert httpx.get(f"{server.url}/health").json()["version"] == versions[2.0]


def test_a_canary_that_cannot_be_loaded_at_the_start_leaves_the_champion_alone(
    versions: dict[float, str], tmp_path: Path
) -> None:
    given = State.of(versions[1.0]).give("canary", "tiny:nosuchversion", 50, None, "salt")
    StateFile(tmp_path / "state.json").path.write_bytes(given.to_json())
    deployment = Started(tmp_path, versions[1.0]).deployment
    assert {deployment.route(f"key {number}").role for number in range(100)} == {"champion"}
    assert "nosuchversion" in str(deployment.details()["problem"])


def test_each_model_has_its_state_in_the_store_s_folder_unless_a_setting_says_otherwise() -> None:
    assert state_path(Settings(model="other:v1")) == HOME / "causeway" / "other" / "state.json"
    assert state_path(Settings(state_file="/mount/state.json")) == Path("/mount/state.json")


def test_a_damaged_version_is_served_by_nobody_and_everybody_is_told_why(home: Path, tmp_path: Path) -> None:
    stored = tiny.saved()
    with (stored.path / "model.onnx").open("ab") as handle:
        handle.write(b"\0")
    with serving(home, tmp_path / "log", CAUSEWAY_MODEL=stored.tag) as server:
        for path, data in [("/health", None), ("/predict", b'{"features": [[0, 0]]}')]:
            request = urllib.request.Request(server.url + path, data, {"Content-Type": "application/json"})
            with pytest.raises(urllib.error.HTTPError) as answer:
                urllib.request.urlopen(request, timeout=PATIENCE_S)
            with answer.value as refused:
                body = json.load(refused)
                assert (refused.status, body["code"]) == (503, "not_ready")
                assert int(refused.headers["Retry-After"]) >= 1
                assert "model.onnx is not what was saved" in body["reason"]
        with pytest.raises(urllib.error.HTTPError) as ready:
            urllib.request.urlopen(f"{server.url}/readyz", timeout=PATIENCE_S)
        with ready.value as refused:
            assert refused.status == 503
        with urllib.request.urlopen(f"{server.url}/livez", timeout=PATIENCE_S) as alive:
            assert alive.status == 200
    events = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines() if line.startswith("{")]
    assert [event["model_version"] for event in events if event["event"] == "version_refused"] == [stored.tag]
