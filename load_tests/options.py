"""What can be asked of a load test on the command line, and how its texts are read."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import click

from causeway.errors import InvalidSetting
from causeway.settings import PREFIX, Settings
from load_tests.objective import milliseconds
from load_tests.open_loop import client
from load_tests.ramp import Ramp
from load_tests.soak import Soak
from load_tests.spike import Spike
from load_tests.traffic import Kind, mix

Shape = Ramp | Soak | Spike
SHAPES = ("ramp", "soak", "spike")
AUTO = "auto"

LEAST_S = 0.5
"""Shortest part of a test that counts: processors' clocks count in hundredths of a second."""

NO_DEADLINE = "none"

ANSWERED = 0.9
"""Of the objective's p99, how long callers wait unless told otherwise: the rest is for the way there and back."""

_UNITS_S = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_OWN = {"MODEL": "--model", "WORKERS": "--workers", "STATE_FILE": "nothing: it has one of its own"}


@dataclass(frozen=True)
class Load:
    """What is sent, and by whom."""

    kinds: tuple[Kind, ...]
    is_constant: bool
    """Whether requests come at equal distances; otherwise as a Poisson process."""
    seed: int
    generators: int
    """Processes that send."""
    connections: int
    """Most that are open at once, of all of them."""
    deadline_ms: float | None = None
    """X-Timeout-Ms of every request: how long callers wait; None: as long as the server chooses."""


class Read(click.ParamType[Any]):
    """An option's text, read by a function that raises `ValueError` with a sentence."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name, self._read = name, read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """What the text says; a default is that already."""
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as exc:
            self.fail(f"{exc}.", param, ctx)


def seconds(text: str) -> float:
    """`10s`, `2h`, `5m` or `500ms` in seconds. Raises `ValueError`."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(ms|s|m|h)", text.strip())
    value = float(found[1]) * _UNITS_S[found[2]] if found else math.nan
    if not value >= 0:
        raise ValueError(f"{text!r} is no duration such as 10s, 5m or 2h")
    return value


def counted_seconds(text: str) -> float:
    """The same, of what counts. Raises `ValueError` where it is shorter than `LEAST_S`."""
    value = seconds(text)
    if value < LEAST_S:
        raise ValueError(f"{text!r} is too short to measure anything in: {LEAST_S:g}s is the least")
    return value


def rates(text: str) -> tuple[float, ...] | None:
    """`100,200,400` in requests a second; None for `auto`. Raises `ValueError`."""
    if text == AUTO:
        return None
    return tuple(rate(part) for part in text.split(","))


def rate(text: str) -> float:
    """Requests a second. Raises `ValueError`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{text.strip()!r} is no rate in requests a second, such as 200 (of a ramp, also: {AUTO})")
    return value


def deadline(text: str) -> float:
    """`90ms` in milliseconds; infinity for `none`. Raises `ValueError`."""
    return math.inf if text == NO_DEADLINE else milliseconds(text)


def deadline_ms(given: float | None, p99_ms: float) -> float | None:
    """X-Timeout-Ms of every request, if any: what was asked for, or else what leaves room for the objective."""
    given = ANSWERED * p99_ms if given is None else given
    return given if given < math.inf else None


def url(text: str) -> str:
    """An address of HTTP without a / at its end. Raises `ValueError`."""
    client.Target.parse(text)
    return text.rstrip("/")


def settings(texts: Iterable[str]) -> dict[str, str]:
    """`CAUSEWAY_TIMEOUT_MS=500` and others, as the server reads them. Raises `click.BadParameter`."""
    given = dict(_setting(text) for text in texts)
    try:
        Settings.from_env(given)
    except InvalidSetting as exc:
        raise click.BadParameter(exc.message, param_hint="--set") from exc
    return given


def _setting(text: str) -> tuple[str, str]:
    variable, separator, value = text.partition("=")
    known = {f"{PREFIX}{each.name.upper()}" for each in fields(Settings)}
    if not separator or variable not in known:
        raise click.BadParameter(
            f"{text!r} is no setting of the server, such as CAUSEWAY_THREADS=2.", param_hint="--set"
        )
    option = _OWN.get(variable.removeprefix(PREFIX))
    if option:
        raise click.BadParameter(f"{variable} is for {option}.", param_hint="--set")
    return variable, value


def kinds(text: str, rows: int) -> tuple[Kind, ...]:
    """The users' mix. Raises `click.BadParameter`."""
    try:
        return mix(text, many_rows=rows)
    except ValueError as exc:
        raise click.BadParameter(f"{exc}.", param_hint="--mix") from exc


def shape(given: Mapping[str, Any]) -> Shape:
    """The shape that the options ask for. Raises `click.UsageError` where they do not belong together."""
    name, stage_s, warm_up_s = given["shape"], given["stage"], given["warm_up"]
    if name == "ramp":
        _refuse(given, ("rate", "for_s", "factor"), "--shape soak or spike: a ramp has --rates and --stage")
        return Ramp(given["rates"], stage_s, warm_up_s, given["repeats"] or 1)
    _refuse(given, ("rates", "repeats"), f"--shape ramp: a {name} has --rate")
    if given["rate"] is None:
        raise click.UsageError(f"--shape {name} needs --rate: requests a second, say 0.6 of what a ramp found.")
    if name == "soak":
        _refuse(given, ("factor",), "--shape spike")
        return Soak(given["rate"], given["for_s"] or 600.0, warm_up_s)
    return Spike(given["rate"], given["factor"] or 4.0, given["for_s"] or 10.0, stage_s, warm_up_s)


def _refuse(given: Mapping[str, Any], names: Iterable[str], what: str) -> None:
    for name in names:
        if given[name] is not None:
            option = "--for" if name == "for_s" else f"--{name}"
            raise click.UsageError(f"{option} is for {what}.")
