"""What a go came to, with everything that its figures depend on: the content of results/bench.json."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from load_tests.bench import goals
from load_tests.bench.bench import Bench, plain
from load_tests.circumstances import circumstances

LIBRARIES = ("fastapi", "httptools", "litserve", "msgspec", "orjson", "pydantic", "starlette", "uvicorn", "uvloop")
"""Whose versions shape the servers, beside those that shape a model."""


def result(bench: Bench, scenarios: Mapping[str, Any], *, at: str, seconds: float, wrk_version: str) -> dict[str, Any]:
    """Values for JSON: when and where, of what, with which settings, the goals, and all rounds of all scenarios."""
    told, head = plain(scenarios), circumstances(bench.plan.seed)
    return {
        "at": at,
        "seconds": round(seconds),
        **head,
        "cores_used": {"server": sorted(bench.cores.server), "generator": sorted(bench.cores.generator)},
        "system": platform.platform(),
        "versions": {**head["versions"], **_versions(), "wrk": wrk_version},
        "settings": dataclasses.asdict(bench.plan),
        "contestants": {peer.name: {"title": peer.title, "command": _command(peer.command)} for peer in bench.peers},
        "failures": plain(bench.failures),
        "skipped": bench.skipped,
        "goals": goals.seen(told),
        "scenarios": told,
    }


def _command(command: tuple[str, ...]) -> str:
    """What was started, without the folders of this machine."""
    return " ".join([Path(command[0]).name, *command[1:]])


def _versions() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
