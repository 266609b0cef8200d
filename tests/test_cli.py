"""`causeway ...` as its users meet it: tables and JSON that agree, a sentence for what is refused, exit codes."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import click
import msgspec
import pytest

from causeway import cli, store
from causeway.state_file import StateFile
from causeway.store import StoredVersion
from load_tests.machine import free_port
from tests import tiny
from tests.conftest import PATIENCE_S, ROOT, environment, serving, wait_until

NARROW = msgspec.structs.replace(
    tiny.CONTRACT, features=(msgspec.structs.replace(tiny.CONTRACT.features[0], minimum=-4), tiny.CONTRACT.features[1])
)


@dataclass(frozen=True)
class Machine:
    """A model store with a state file, and the command line there."""

    home: Path
    variables: dict[str, str]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "causeway", *arguments],
            cwd=ROOT,
            env=environment(self.home, **{**self.variables, **variables}),
            capture_output=True,
            text=True,
            check=False,
        )

    def says(self, *arguments: str, **variables: str) -> str:
        """What it prints where all goes well."""
        result = self.run(*arguments, **variables)
        assert (result.returncode, result.stderr) == (0, "")
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self.says(*arguments, "--json"))

    def refusal(self, *arguments: str, **variables: str) -> str:
        """The one sentence that it says where it does not do it."""
        result = self.run(*arguments, **variables)
        assert (result.returncode, result.stdout) == (1, ""), result
        (line,) = result.stderr.splitlines()
        assert line.startswith("causeway: ")
        return line.removeprefix("causeway: ")

    @property
    def state(self) -> Path:
        return self.home / "causeway" / "tiny" / "state.json"

    @property
    def roles(self) -> dict[str, str]:
        return {role: given["tag"] for role, given in self.json("status")["roles"].items()}


LABELS = {"family": "mlp", "variant": "int8-static"}


@pytest.fixture(scope="module")
def versions() -> dict[str, StoredVersion]:
    """Versions by what they are, the oldest first."""
    quality = {"average_precision": 0.61234}
    return {
        "narrow": tiny.saved(contract_json=NARROW.to_json()),
        "first": store.find(store.save("tiny", dict(tiny.FILES), labels=LABELS, metadata={"quality": quality})),
        "second": tiny.saved(),
        "damaged": tiny.saved(),
        "newest": tiny.saved(),
    }


@pytest.fixture
def machine(versions: dict[str, StoredVersion], tmp_path: Path) -> Machine:
    """One on which `first` answers, without a state file and without a worker."""
    for version in versions.values():
        shutil.copytree(version.path, tmp_path / "models" / "tiny" / version.path.name)
    newest = tmp_path / "models" / "tiny" / "latest"
    newest.write_text(versions["newest"].path.name)
    with (tmp_path / "models" / "tiny" / versions["damaged"].path.name / "model.onnx").open("ab") as handle:
        handle.write(b"\0")
    return Machine(tmp_path, {"CAUSEWAY_MODEL": versions["first"].tag})


@pytest.fixture(scope="module")
def tags(versions: dict[str, StoredVersion]) -> dict[str, str]:
    return {name: version.tag for name, version in versions.items()}


def row(table: str, *cells: str) -> bool:
    """Whether a line of the table has just these cells."""
    return any(re.split(r"\s{2,}", line.strip()) == list(cells) for line in table.splitlines())


def test_help_has_every_command_with_a_whole_sentence(machine: Machine) -> None:
    text = machine.says("--help")
    context = click.Context(cli.main)
    for name in cli.main.list_commands(context):
        command = cli.main.get_command(context, name)
        assert command is not None
        assert f"  {name} " in text
        sentence = (command.help or "").partition(".")[0]
        assert f" {sentence}." in text


def test_without_a_state_file_the_settings_version_is_champion(machine: Machine, tags: dict[str, str]) -> None:
    status = machine.json("status")
    assert status == {
        "revision": 0,
        "roles": {"champion": {"tag": tags["first"], "share": 100}},
        "previous": [],
        "source": "settings",
        "problem": None,
        "path": str(machine.state),
        "workers": [],
    }
    text = machine.says("status")
    assert text.startswith("Revision 0, by the settings; there is no state file\n")
    assert row(text, "champion", tags["first"], "100 %")
    assert text.endswith(f"No worker that follows {machine.state} is running.\n")
    assert machine.json("history") == []
    assert machine.says("history") == "Nothing was changed yet.\n"
    assert not machine.state.exists()


def test_a_day_of_changes_is_told_by_status_and_history(machine: Machine, tags: dict[str, str]) -> None:
    first, second, newest = (tags[name] for name in ("first", "second", "newest"))
    promoted = machine.says("promote", second, "--who", "ann", "--why", "trained on [July]'s [/data]")
    nobody = f"No worker that follows {machine.state} is running."
    assert promoted.splitlines() == [f"Now champion {second} 100 %", f"Revision 1. {nobody}"]
    canary = machine.json("canary", "tiny:latest", "--share", "2.5", "--lease", "30m")
    facts = canary["revision"], canary["action"], canary["workers"]
    assert facts == (2, f"canary {newest} --share 2.5", 0)
    machine.says("challenger", first, "--share", "40")
    status, text = machine.json("status"), machine.says("status")
    shares = {role: (given["tag"], given["share"]) for role, given in status["roles"].items()}
    assert shares == {"champion": (second, 57.5), "canary": (newest, 2.5), "challenger": (first, 40)}
    assert f"A rollback goes back to {first}\n" in text
    assert row(text, "challenger", first, "40 %")
    assert row(text, "canary", newest, "2.5 %", status["roles"]["canary"]["until"])
    machine.says("stop", "canary")
    machine.says("stop", "challenger", "--who", "bob")
    machine.says("shadow", newest)
    machine.says("rollback", "--why", "it was worse")
    assert machine.roles == {"champion": first, "shadow": newest}

    changes, text = machine.json("history"), machine.says("history")
    actions = ["promote", "canary", "challenger", "stop canary", "stop challenger", "shadow", "rollback"]
    assert [change["action"].partition(" tiny:")[0] for change in changes] == actions
    assert [change["after"]["revision"] for change in changes] == list(range(1, 8))
    assert all(change["before"] == before["after"] for before, change in itertools.pairwise(changes))
    assert (changes[0]["who"], changes[0]["why"]) == ("ann", "trained on [July]'s [/data]")
    assert changes[1]["who"] == cli.whoami()
    assert "trained on [July]'s [/data]" in text
    assert f"champion {first}" in text
    assert f"champion {second}" in text
    assert machine.json("history", "--last", "2") == changes[-2:]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("promote tiny:nosuch", "The model store has no version tiny:nosuch"),
        ("promote Tiny:A", "'Tiny:A' is not the tag of a version: name:version, or name:latest for the newest"),
        ("shadow tiny", "'tiny' is not the tag of a version"),
        ("promote {first}", "{first} is the champion already"),
        ("promote {damaged}", "{damaged} may not get traffic: model.onnx is not what was saved (SHA-256 differs)"),
        ("shadow {narrow}", "requests that {first} answers could fail: a may be -4 to 5, not -5 to 5"),
        ("canary {newest} --share 60", "the shares add up to 110 %"),
        ("canary {second} --share 5", "{second} is the challenger already; a version has one role"),
        ("rollback", "there was no champion before {first}"),
        ("rollback {newest}", "there was no champion before {first}"),
        ("stop shadow", "there is no shadow"),
        ("rollout {first}", "a rollout compares what {url}/metrics says, and it says nothing: [Errno 111] Connection"),
        ("rollout {newest} --url nowhere", "nowhere/metrics says, and it says nothing: unknown url type"),
    ],
)
def test_what_may_not_be_is_refused_in_one_sentence_and_changes_nothing(
    machine: Machine, tags: dict[str, str], arguments: str, words: str
) -> None:
    facts = {**tags, "url": f"http://127.0.0.1:{free_port()}"}
    machine.says("challenger", tags["second"], "--share", "50")
    before = machine.state.read_bytes()
    refusal = machine.refusal(*arguments.format(**facts).split(), CAUSEWAY_URL=facts["url"])
    assert words.format(**facts) in refusal
    assert machine.state.read_bytes() == before


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "demote tiny:a",
        "promote",
        "canary tiny:a",
        "canary tiny:a --share 0",
        "canary tiny:a --share 100.5",
        "canary tiny:a --share nan",
        "canary tiny:a --share 5 --lease soon",
        "challenger tiny:a --share many",
        "stop everything",
        "stop champion",
        "history --last 0",
        "rollout tiny:a --steps 5,5",
        "rollout tiny:a --hold 0",
        "rollout tiny:a --max-psi nan",
        "rollout tiny:a --max-errors -1",
    ],
)
def test_a_command_line_that_means_nothing_has_exit_code_2(machine: Machine, arguments: str) -> None:
    result = machine.run(*arguments.split())
    assert (result.returncode, result.stdout) == (2, "")
    assert "Usage: causeway" in result.stderr
    assert not machine.state.exists()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("0.5s", 0.5), ("15m", 900), ("2h", 7200), ("1.5h", 5400), ("7d", 604800)],
)
def test_a_duration_is_a_number_and_its_unit(text: str, seconds: float) -> None:
    assert cli.Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "0s", "-5s", "5w", "s", "1h30m", "nan", "inf", " 5", "1e3", "2401h"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no duration of at most 100 days; write 90s, 15m, 2h or 7d"):
        cli.Duration().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "steps"), [("100", (100,)), ("1,5,25,50,100", (1, 5, 25, 50, 100)), ("0.1, 2", (0.1, 2))]
)
def test_steps_are_percents_that_grow(text: str, steps: tuple[float, ...]) -> None:
    assert cli.Steps().convert(text, None, None) == steps


@pytest.mark.parametrize("text", ["", "0,5", "5,5", "5,1", "50,101", "-1", "nan", "1,nan", "inf", "1,,2", "many"])
def test_what_does_not_grow_to_at_most_100_percent_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="percents that grow, such as 1,5,25,50,100"):
        cli.Steps().convert(text, None, None)


def test_a_rollback_to_one_that_takes_less_needs_force(machine: Machine, tags: dict[str, str]) -> None:
    machine.says("promote", tags["second"], CAUSEWAY_MODEL=tags["narrow"])
    assert f"{tags['narrow']} may not get traffic: requests that" in machine.refusal("rollback")
    machine.says("rollback", "--force")
    assert machine.roles == {"champion": tags["narrow"]}


def test_a_broken_state_file_is_told_and_the_next_change_mends_it(machine: Machine, tags: dict[str, str]) -> None:
    machine.says("promote", tags["second"])
    machine.state.write_text('{"roles": {"champion": ')
    status, text = machine.json("status"), machine.says("status")
    assert (status["source"], status["roles"]["champion"]["tag"]) == ("history", tags["second"])
    assert status["problem"].startswith("Input data was truncated")
    assert text.startswith("Revision 1, by the audit log\n")
    assert f"{machine.state} makes no sense: Input data was truncated" in text
    machine.says("promote", tags["first"])
    mended = machine.json("status")
    assert (mended["source"], mended["revision"], mended["problem"]) == ("file", 2, None)


def test_a_state_file_that_was_never_good_stops_every_command(machine: Machine, tags: dict[str, str]) -> None:
    machine.state.parent.mkdir(parents=True)
    machine.state.write_text("nonsense")
    for arguments in (["status"], ["versions"], ["promote", tags["second"]]):
        assert machine.refusal(*arguments).startswith(f"{machine.state} cannot be")


def test_where_the_state_cannot_be_written_nothing_changes_and_the_rest_works(
    machine: Machine, tags: dict[str, str]
) -> None:
    path = "/sys/causeway/state.json"
    there = Machine(machine.home, {**machine.variables, "CAUSEWAY_STATE_FILE": path})
    assert there.refusal("promote", tags["second"]).startswith(f"{path} cannot be changed: ")
    assert there.roles == {"champion": tags["first"]}
    assert there.json("history") == []


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CAUSEWAY_WORKERS", "many", "CAUSEWAY_WORKERS='many': must be a whole number from 1 to 256"),
        ("CAUSEWAY_MODEL", "Tiny", "CAUSEWAY_MODEL='Tiny': must be a model tag, name:version or name:latest"),
        ("CAUSEWAY_MODLE", "tiny:a", "CAUSEWAY_MODLE is no setting; did you mean CAUSEWAY_MODEL?"),
        ("CAUSEWAY_STATE_FILE", "state.txt", "CAUSEWAY_STATE_FILE='state.txt': must be the path of a .json file"),
        ("CAUSEWAY_MODEL", "nosuch:latest", "The model store has no version nosuch:latest"),
    ],
)
def test_a_setting_that_is_wrong_is_named(machine: Machine, variable: str, value: str, words: str) -> None:
    assert machine.refusal("status", **{variable: value}) == words


def test_of_two_operators_at_once_the_second_is_told_who_was_first(machine: Machine, tags: dict[str, str]) -> None:
    with StateFile(machine.state).changing("ann", "promote tiny:x"):
        assert machine.refusal("promote", tags["second"]) == "ann was first: promote tiny:x"
    machine.says("promote", tags["second"])


def test_versions_are_the_newest_first_with_role_share_quality_and_size(
    machine: Machine, versions: dict[str, StoredVersion], tags: dict[str, str]
) -> None:
    machine.says("canary", tags["newest"], "--share", "5")
    nobody = f"http://127.0.0.1:{free_port()}"
    listed = machine.json("versions", "--url", nobody)
    assert [version["tag"] for version in listed] == [tags[name] for name in reversed(versions)]
    by_tag = {version["tag"]: version for version in listed}
    first = by_tag[tags["first"]]
    assert (first["role"], first["share"], first["average_precision"]) == ("champion", 95, 0.61234)
    assert (first["n_bytes"], first["made"]) == (versions["first"].n_bytes, "mlp int8-static")
    assert by_tag[tags["second"]]["role"] is None
    assert {version["requests"] for version in listed} == {None}
    text = machine.says("versions", "--url", nobody)
    assert re.search(
        rf"^{tags['first']} +mlp int8-static +champion +95 % +\d+ (s|min) +0\.6123 +0\.0 +\?$", text, re.MULTILINE
    ), text


@pytest.fixture(scope="module")
def html() -> Iterator[str]:
    """Where another kind of server answers."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>Welcome</title>")

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_another_kind_of_server_has_no_figures(machine: Machine, tags: dict[str, str], html: str) -> None:
    assert {version["requests"] for version in machine.json("versions", "--url", html)} == {None}
    refusal = machine.refusal("rollout", tags["second"], "--url", html)
    assert refusal.startswith(f"a rollout compares what {html}/metrics says, and it says nothing: invalid metric name")
    assert not machine.state.exists()


def test_beside_a_served_process_the_workers_are_waited_for_and_requests_counted(
    machine: Machine, tags: dict[str, str]
) -> None:
    first, second = tags["first"], tags["second"]
    with serving(machine.home, machine.home / "log", CAUSEWAY_WORKERS="2", **machine.variables) as server:
        body = json.dumps({"features": tiny.SAMPLES.features}).encode()
        request = urllib.request.Request(f"{server.url}/predict", body, {"Content-Type": "application/json"})

        def answering() -> str:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as response:
                tag: str = json.load(response)["model_version"]
                return tag

        assert answering() == first
        wait_until(lambda: len(machine.json("status")["workers"]) == 2, "two workers", server)
        promoted = machine.says("promote", second)
        expected = rf"Now champion {second} 100 %\n2 workers serve revision 1, after \d+\.\d\d s\n"
        assert re.fullmatch(expected, promoted)
        assert [answering() for _ in range(4)] == [second] * 4
        status, text = machine.json("status"), machine.says("status")
        assert [worker["is_current"] for worker in status["workers"]] == [True, True]
        assert all(row(text, str(worker["pid"]), second, "1", "current") for worker in status["workers"])
        listed = machine.json("versions", "--url", server.url)
        requests = {version["tag"]: version["requests"] for version in listed}
        assert (requests[first], requests[second], requests[tags["newest"]]) == (1, 4, 0)
        text = machine.says("versions", CAUSEWAY_URL=server.url)
        assert re.search(rf"^{second} +tiny +champion +100 % .* 4$", text, re.MULTILINE), text
