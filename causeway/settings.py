"""What an operator can set, read once from the environment."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from causeway.errors import InvalidSetting, UnknownSetting
from causeway.tag import is_tag

PREFIX = "CAUSEWAY_"

ALIKE = 0.7
"""How much a variable must resemble a setting, by difflib's ratio, to be taken for a misspelling of it."""


@dataclass(frozen=True)
class Settings:
    """All settings with their defaults; field `max_rows` is the variable CAUSEWAY_MAX_ROWS, and so on."""

    model: str = "fraud:latest"
    """Model tag that answers: `name:version`, or `name:latest` for the newest in the store."""

    workers: int = 1
    """Worker processes that share the port."""

    max_body_bytes: int = 8 * 1024 * 1024
    """Largest request body, in bytes; a larger one is refused while it is being read."""

    max_rows: int = 10_000
    """Most rows in one request."""

    timeout_ms: float = 1_000.0
    """Time for one request, in milliseconds, where it has no X-Timeout-Ms."""

    max_timeout_ms: float = 30_000.0
    """Cap for X-Timeout-Ms; a request that asks for more gets this."""

    threads: int = 1
    """Threads that the engine uses for one batch."""

    device: str = "auto"
    """What computes: `cpu`, `cuda` (the first GPU), `cuda:N`, or `auto`: whichever is quickest when a version loads."""

    state_file: str = ""
    """Which versions are deployed, where it is not `causeway/NAME/state.json` in BENTOML_HOME (NAME: the model's)."""

    admin_token: str = field(default="", repr=False)
    """Bearer token for the HTTP surface under /admin/, at least 16 characters; without one there is no such surface."""

    cache_bytes: int = 0
    """Memory for answers that are kept, in bytes a version, for requests with exactly the same rows; 0 keeps none."""

    monitoring: str = "on"
    """`on`, or `off`: no prediction log, no feedback, no drift, and no figures of requests in /metrics."""

    database_url: str = field(default="", repr=False)
    """Where predictions and labels are kept: postgresql://user:password@host/name; empty, SQLite beside the state."""

    keep_days: float = 30.0
    """Days for which the prediction log is kept."""

    keep_bytes: int = 2**30
    """What the prediction log takes at most, in bytes; the oldest goes first."""

    drift_rows: int = 1_000
    """Rows in a window for drift, at least."""

    drift_s: float = 300.0
    """Seconds that such a window lasts, at least."""

    log_format: str = "auto"
    """`json` (one object a line), `console` (for people), or `auto`: console on a terminal, otherwise json."""

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Settings from CAUSEWAY_* variables. Raises `InvalidSetting`, which names the variable and its value."""
        known = {f"{PREFIX}{field.name.upper()}": field.name for field in fields(cls)}
        _refuse_misspelt(environ, known)
        values: dict[str, Any] = {}
        for variable, name in known.items():
            if variable in environ:
                values[name] = _CHECKS[name](variable, environ[variable])
        settings = cls(**values)
        if settings.timeout_ms > settings.max_timeout_ms:
            at_least = f"at least CAUSEWAY_TIMEOUT_MS, which is {settings.timeout_ms:.15g}"
            raise InvalidSetting("CAUSEWAY_MAX_TIMEOUT_MS", f"{settings.max_timeout_ms:.15g}", at_least)
        return settings


def _refuse_misspelt(environ: Mapping[str, str], known: Iterable[str]) -> None:
    """Others may have variables with our prefix, as Kubernetes does beside a service of that name; none looks alike."""
    names = {variable.removeprefix(PREFIX): variable for variable in known}
    for variable in environ.keys() - names.values():
        if variable.startswith(PREFIX):
            alike = difflib.get_close_matches(variable.removeprefix(PREFIX), names, 1, ALIKE)
            if alike:
                raise UnknownSetting(variable, names[alike[0]])


def _number(kind: type[int] | type[float], minimum: float, maximum: float) -> Callable[[str, str], int | float]:
    name = "a whole number" if kind is int else "a number"

    def check(variable: str, value: str) -> int | float:
        try:
            # Python itself takes 1_0 for 10.
            number = kind(value.replace("_", "?"))
        except ValueError:
            number = kind(-1)
        if not minimum <= number <= maximum:
            raise InvalidSetting(variable, value, f"{name} from {minimum:.15g} to {maximum:.15g}")
        return number

    return check


def _tag(variable: str, value: str) -> str:
    if not is_tag(value):
        raise InvalidSetting(variable, value, "a model tag, name:version or name:latest")
    return value


def _choice(*choices: str) -> Callable[[str, str], str]:
    def check(variable: str, value: str) -> str:
        if value not in choices:
            raise InvalidSetting(variable, value, f"one of {', '.join(choices)}")
        return value

    return check


def _database(variable: str, value: str) -> str:
    """With the driver that is installed: psycopg, of which SQLAlchemy's own default is the predecessor.

    What is refused is never told, nor what SQLAlchemy says of it: passwords are in there.
    """
    from sqlalchemy import make_url  # takes 0.1 s, and few set it
    from sqlalchemy.exc import ArgumentError

    scheme, separator, rest = value.partition("://")
    try:
        url = make_url(f"postgresql+psycopg://{rest}")
    except (ArgumentError, ValueError):
        url = None
    is_known = bool(separator and rest) and scheme in ("postgresql", "postgresql+psycopg", "postgres")
    # An unescaped @ in the password ends up in the host, and so does the form with key=value.
    if not is_known or url is None or re.search(r"[@=\s]", f"{url.host}{url.database}"):
        raise InvalidSetting(variable, "...", "a URL such as postgresql://user:password@host/name, escaped as URLs are")
    if any("password" in name.lower() for name in url.query):
        raise InvalidSetting(variable, "...", "a URL whose password is before the host, not among its parameters")
    return f"postgresql+psycopg://{rest}"


def _device(variable: str, value: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:(0|[1-9][0-9]{0,2}))?", value):
        raise InvalidSetting(variable, value, "auto, cpu, cuda, or cuda:N for the GPU with the number N, from 0")
    return value


def _path(variable: str, value: str) -> str:
    if not value.endswith(".json"):
        raise InvalidSetting(variable, value, "the path of a .json file")
    return value


def _token(variable: str, value: str) -> str:
    if not re.fullmatch(r"[!-~]{16,}", value):
        raise InvalidSetting(variable, "...", "at least 16 printable ASCII characters without spaces")
    return value


_CHECKS: dict[str, Callable[[str, str], Any]] = {
    "model": _tag,
    "workers": _number(int, 1, 256),
    "max_body_bytes": _number(int, 1, 2**30),
    "max_rows": _number(int, 1, 10**7),
    "timeout_ms": _number(float, 1, 600_000),
    "max_timeout_ms": _number(float, 1, 600_000),
    "threads": _number(int, 1, 256),
    "device": _device,
    "state_file": _path,
    "admin_token": _token,
    "cache_bytes": _number(int, 0, 2**40),
    "monitoring": _choice("on", "off"),
    "database_url": _database,
    "keep_days": _number(float, 0.001, 36_500),
    "keep_bytes": _number(int, 2**20, 2**50),
    "drift_rows": _number(int, 100, 10**7),
    "drift_s": _number(float, 0, 10**7),
    "log_format": _choice("auto", "json", "console"),
}
