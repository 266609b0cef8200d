"""The deployment over HTTP: for whoever has the token, and nothing at all without one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests import tiny
from tests.conftest import HOME, PATIENCE_S, Server, serving, wait_until
from tests.monitoring.test_metrics import scraped

TOKEN = "s3cret-s3cret-s3cret"
LOOKS = ["status", "versions", "history"]
COMMANDS = ["promote", "rollback", "canary", "challenger", "shadow", "stop"]


class Admin:
    """Somebody with the token."""

    def __init__(self, server: Server, tags: list[str]) -> None:
        self.server = server
        self.tags = tags

    def get(self, look: str) -> Any:
        reply = httpx.get(f"{self.server.url}/admin/{look}", headers=bearer(TOKEN), timeout=PATIENCE_S)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def post(self, command: str, body: Any = None, content: bytes = b"") -> httpx.Response:
        given: dict[str, Any] = {"content": content} if body is None else {"json": body}
        return httpx.post(f"{self.server.url}/admin/{command}", headers=bearer(TOKEN), timeout=PATIENCE_S, **given)

    def change(self, command: str, **body: Any) -> Any:
        reply = self.post(command, body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    @property
    def roles(self) -> dict[str, str]:
        return {role: given["tag"] for role, given in self.get("status")["roles"].items()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


@pytest.fixture(scope="module")
def admin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Admin]:
    folder = tmp_path_factory.mktemp("admin")
    tags = [tiny.saved_scaled(by).tag for by in (1.0, 2.0, 3.0)]
    variables = {"CAUSEWAY_MODEL": tags[0], "CAUSEWAY_STATE_FILE": str(folder / "state.json")}
    with serving(HOME, folder / "log", CAUSEWAY_ADMIN_TOKEN=TOKEN, **variables) as server:
        yield Admin(server, tags)
        assert TOKEN not in server.log.read_text()


@pytest.mark.parametrize("path", [*LOOKS, *COMMANDS, "", "anything"])
def test_without_a_token_in_the_settings_there_is_nothing_under_admin(server: Server, path: str) -> None:
    for method in ("GET", "POST"):
        reply = httpx.request(method, f"{server.url}/admin/{path}", headers=bearer(TOKEN))
        assert (reply.status_code, reply.json()["code"]) == (404, "not_found")
        assert "admin" not in reply.text


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        bearer(TOKEN[:-1]),
        bearer(TOKEN + "x"),
        bearer(TOKEN.upper()),
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"X-Admin-Token": TOKEN},
    ],
)
def test_without_the_right_token_nothing_is_told_and_nothing_done(admin: Admin, headers: dict[str, str]) -> None:
    before = admin.roles
    for method, path in [*(("GET", look) for look in LOOKS), *(("POST", command) for command in COMMANDS)]:
        body = json.dumps({"tag": admin.tags[1], "share": 5, "role": "canary"})
        reply = httpx.request(method, f"{admin.server.url}/admin/{path}", headers=headers, content=body)
        assert (reply.status_code, reply.json()["code"]) == (401, "unauthorized")
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert "fraud" not in reply.text
    assert admin.roles == before


def test_the_life_of_a_version_over_http(admin: Admin) -> None:
    champion, other, third = admin.tags
    assert admin.get("status")["source"] == "settings"
    assert admin.get("history") == []
    assert admin.change("canary", tag=other, share=5, lease_s=600)["workers"] == 1
    assert admin.change("challenger", tag=third, share=50.5)["action"] == f"challenger {third} --share 50.5"
    status = admin.get("status")
    assert [(role, given["tag"], given["share"]) for role, given in status["roles"].items()] == [
        ("champion", champion, 44.5),
        ("canary", other, 5),
        ("challenger", third, 50.5),
    ]
    assert "until" in status["roles"]["canary"]
    assert [worker["is_current"] for worker in status["workers"]] == [True]
    done = admin.change("promote", tag=other, who="ann", why="better")
    assert (done["revision"], done["workers"]) == (3, 1)
    assert httpx.get(f"{admin.server.url}/health").json()["version"] == other
    assert admin.change("stop", role="challenger")["revision"] == 4
    assert admin.change("shadow", tag=third)["revision"] == 5
    assert admin.change("rollback")["revision"] == 6
    assert admin.roles == {"champion": champion, "shadow": third}
    history = admin.get("history")
    assert [change["after"]["revision"] for change in history] == [1, 2, 3, 4, 5, 6]
    assert (history[2]["who"], history[2]["why"]) == ("ann (http)", "better")
    events = [json.loads(line) for line in admin.server.log.read_text().splitlines() if line.startswith("{")]
    assert [event["who"] for event in events if event["event"] == "changed"][2] == "ann (http)"


def test_versions_come_with_role_and_size_and_the_requests_that_they_answered(admin: Admin) -> None:
    champion = admin.get("status")["roles"]["champion"]["tag"]
    before = {version["tag"]: version for version in admin.get("versions")}
    for _ in range(3):
        assert httpx.post(f"{admin.server.url}/predict", json={"features": [[1, 1]]}).status_code == 200
    name = f'causeway_variant_requests_total{{model_version="{champion}",status="200",variant="champion"}}'
    wait_until(lambda: scraped(admin.server).get(name, 0) >= before[champion]["requests"] + 3, "the count")
    after = {version["tag"]: version for version in admin.get("versions")}
    assert after[champion]["requests"] == before[champion]["requests"] + 3
    assert (after[champion]["role"], after[champion]["average_precision"]) == ("champion", None)
    assert all(version["n_bytes"] > 0 for version in after.values())


@pytest.mark.parametrize(
    ("command", "body"),
    [
        ("promote", {}),
        ("promote", {"tag": 7}),
        ("promote", {"tag": "x" * 1000}),
        ("promote", {"tag": "tiny:a", "share": 5}),
        ("canary", {"tag": "tiny:a"}),
        ("canary", {"tag": "tiny:a", "share": 0}),
        ("canary", {"tag": "tiny:a", "share": 101}),
        ("canary", {"tag": "tiny:a", "share": "5"}),
        ("canary", {"tag": "tiny:a", "share": 5, "lease_s": -1}),
        ("stop", {"role": "champion"}),
        ("stop", {}),
        ("shadow", []),
        ("shadow", "tiny:a"),
        ("promote", {"tag": "tiny:a", "who": "two\nlines"}),
    ],
)
def test_a_command_that_means_nothing_is_told_what_the_command_takes(admin: Admin, command: str, body: Any) -> None:
    reply = admin.post(command, body)
    assert (reply.status_code, reply.json()["code"]) == (400, "command_invalid")
    assert "who (optional)" in reply.json()["error"]


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 5000, b'{"tag": NaN}'])
def test_a_body_that_is_no_json_is_refused(admin: Admin, content: bytes) -> None:
    assert admin.post("promote", content=content).json()["code"] == "command_invalid"


def test_a_body_that_is_too_large_is_refused(admin: Admin) -> None:
    assert admin.post("promote", content=b" " * 100_000).json()["code"] == "body_too_large"


def test_what_the_deployment_does_not_allow_is_refused_with_the_reason(admin: Admin) -> None:
    champion = admin.roles["champion"]
    damaged = tiny.saved_scaled(7.0)
    (damaged.path / "model.onnx").write_bytes(b"")
    for command, body, status, code in [
        ("promote", {"tag": champion}, 409, "change_refused"),
        ("promote", {"tag": "tiny:nosuchversion"}, 404, "version_unknown"),
        ("promote", {"tag": damaged.tag}, 409, "version_unfit"),
        ("stop", {"role": "challenger"}, 409, "change_refused"),
        ("rollback", {"tag": "tiny:nosuchversion"}, 409, "change_refused"),
    ]:
        reply = admin.post(command, body)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
    assert admin.roles["champion"] == champion


@pytest.mark.parametrize("look", LOOKS)
def test_looking_is_not_posting(admin: Admin, look: str) -> None:
    reply = admin.post(look, {})
    assert (reply.status_code, reply.headers["Allow"]) == (405, "GET, HEAD")
