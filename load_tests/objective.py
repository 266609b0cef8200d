"""What a service is asked to keep to: `p99 under 100 ms and errors under 0.1 %`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Objective:
    """The p99 of right answers at most, and the largest share of requests without one."""

    p99_ms: float = 100.0
    errors: float = 0.001
    """Share of the requests, 0 to 1, refusals among them: whoever was refused has no prediction."""

    def __str__(self) -> str:
        return f"p99 under {self.p99_ms:g} ms and errors under {100 * self.errors:g} %"


def milliseconds(text: str) -> float:
    """`100ms`, `0.1s` or `250us` in milliseconds. Raises `ValueError`."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(us|ms|s)", text.strip())
    if not found or not float(found[1]):
        raise ValueError(f"{text!r} is no duration such as 100ms, 0.5s or 250us")
    return float(found[1]) * _UNITS[found[2]]


def share(text: str) -> float:
    """`0.1%` or `0.001` as a share, 0 to 1. Raises `ValueError`."""
    found = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)\s*(%?)", text.strip())
    value = float(found[1]) / (100 if found[2] else 1) if found else 2.0
    if value > 1:
        raise ValueError(f"{text!r} is no share such as 0.1% or 0.001")
    return value
