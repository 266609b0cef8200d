"""The deployment over HTTP: /admin/..., for whoever has the token. Without a token in the settings there is no /admin.

    GET  /admin/status, /admin/versions, /admin/history
    POST /admin/promote     {"tag": ...}
    POST /admin/rollback    {} or {"tag": ...}, and "force": true
    POST /admin/canary      {"tag": ..., "share": percent}, and "lease_s": seconds
    POST /admin/challenger  {"tag": ..., "share": percent}
    POST /admin/shadow      {"tag": ...}
    POST /admin/stop        {"role": ...}

Each POST may also say `who` and `why`, for the audit log.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

import msgspec

from causeway import errors, logs, state
from causeway.asgi import Answer, Endpoint, Request, json_answer
from causeway.figures import requests_by_version
from causeway.operations import By, Done, Operations, described
from causeway.settings import Settings

BODY_BYTES = 16 * 1024
"""What a command may take at most."""

BODY_S = 10.0
"""And how long it may take to come."""

Text = Annotated[str, msgspec.Meta(max_length=500, pattern=r"^[^\x00-\x1f]*$")]
Tag = Annotated[str, msgspec.Meta(max_length=127)]
Percent = Annotated[float, msgspec.Meta(gt=0, le=100)]


class Command(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What every command may have."""

    who: Text = "somebody"
    why: Text = ""

    @property
    def by(self) -> By:
        """Who is behind it: the token is one for all, so the name is only what the caller says."""
        return By(f"{self.who} (http)", self.why, state.now())


class OfTag(Command, frozen=True):
    """Promote, or shadow."""

    tag: Tag


class Rollback(Command, frozen=True):
    """Back to the champion before, or to that of a tag."""

    tag: Tag | None = None
    force: bool = False


class Challenger(OfTag, frozen=True):
    """A fixed share."""

    share: Percent


class Canary(Challenger, frozen=True):
    """A share, with or without a lease."""

    lease_s: Annotated[float, msgspec.Meta(gt=0, le=10_000_000)] | None = None


class Stop(Command, frozen=True):
    """Empties a role."""

    role: Literal["canary", "challenger", "shadow"]


class Admin:
    """The endpoints under /admin/."""

    def __init__(self, settings: Settings, exposition: Callable[[], str]) -> None:
        self._expected = f"Bearer {settings.admin_token}".encode()
        self._operations = Operations(settings)
        self._exposition = exposition
        """What /metrics says."""

    def endpoints(self) -> Mapping[str, tuple[Endpoint, tuple[str, ...]]]:
        """By path, with the methods that each takes."""
        operations = self._operations
        looks = {"status": self._status, "versions": self._versions, "history": self._history}
        commands: Mapping[str, tuple[type[Command], Callable[[Any], Done]]] = {
            "promote": (OfTag, lambda asked: operations.promote(asked.tag, asked.by)),
            "rollback": (Rollback, lambda asked: operations.rollback(asked.tag, asked.by, is_forced=asked.force)),
            "canary": (Canary, self._canary),
            "challenger": (Challenger, lambda asked: operations.challenger(asked.tag, asked.share, asked.by)),
            "shadow": (OfTag, lambda asked: operations.shadow(asked.tag, asked.by)),
            "stop": (Stop, lambda asked: operations.stop(asked.role, asked.by)),
        }
        return {
            **{f"/admin/{name}": (self._look(look), ("GET", "HEAD")) for name, look in looks.items()},
            **{f"/admin/{name}": (self._command(*command), ("POST",)) for name, command in commands.items()},
        }

    def _look(self, look: Callable[[], Any]) -> Endpoint:
        async def endpoint(request: Request) -> Answer:
            self._authorise(request)
            return json_answer(200, msgspec.json.encode(await asyncio.to_thread(look)), request.id)

        return endpoint

    def _command(self, form: type[Command], carry_out: Callable[[Any], Done]) -> Endpoint:
        decode = msgspec.json.Decoder(form).decode
        fields = {field.name: field for field in msgspec.structs.fields(form)}
        expected = ", ".join(f"{name}{'' if fields[name].required else ' (optional)'}" for name in fields)

        async def endpoint(request: Request) -> Answer:
            self._authorise(request)
            try:
                async with asyncio.timeout(BODY_S):
                    body = b"".join(await request.pieces(BODY_BYTES)) or b"{}"
                asked = decode(body)
            except TimeoutError:
                raise errors.DeadlineExceeded(BODY_S * 1000) from None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
                raise errors.CommandInvalid(expected, str(exc)) from None
            done = await asyncio.to_thread(carry_out, asked)
            logs.get().info("changed", action=done.change.action, who=done.change.who, revision=done.change.revision)
            said = {
                "revision": done.change.revision,
                "action": done.change.action,
                "workers": done.workers,
                "seconds": round(done.seconds, 3),
            }
            return json_answer(200, msgspec.json.encode(said), request.id)

        return endpoint

    def _authorise(self, request: Request) -> None:
        """Raises `Unauthorized`, after the same time whatever the token was."""
        if not hmac.compare_digest(request.headers.get(b"authorization", b""), self._expected):
            raise errors.Unauthorized()

    def _canary(self, asked: Canary) -> Done:
        until = None if asked.lease_s is None else state.now() + timedelta(seconds=asked.lease_s)
        return self._operations.canary(asked.tag, asked.share, asked.by, until=until)

    def _status(self) -> Any:
        return described(self._operations.status())

    def _versions(self) -> Any:
        answered = requests_by_version(self._exposition())
        listed = self._operations.versions()
        return [dataclasses.replace(version, requests=answered.get(version.tag, 0)) for version in listed]

    def _history(self) -> Any:
        return self._operations.history()
