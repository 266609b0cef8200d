"""What users send, and whether what they get is right.

Rows come from the part of the simulated data that no version was trained on. Nothing here loads a model or its
libraries until rows are asked for: generator processes and Locust only send and check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIX = "one=0.9,many=0.1"
"""Nine in ten requests have one row."""

MANY_ROWS = 100
N_ONE, N_MORE = 512, 64
"""Different requests of users who send one row, and of those who send more."""

TOLERANCE = 1e-5
"""Largest difference between two answers of a version to the same rows: it may have computed them beside others."""

MOST_FORMS = 8
"""Forms of an answer that are recognized by their bytes; a server that writes more of them is read anew each time."""

_PREDICTIONS = re.compile(rb'"predictions"\s*:\s*\[[-+.\deE,\s\[\]]*\]')
_VERSION = re.compile(rb'"model_version"\s*:\s*"[^"\\]*"')


@dataclass(frozen=True)
class Kind:
    """A kind of user."""

    name: str
    rows: int
    """In each of its requests."""
    weight: float
    """Share of the requests that it sends, 0 to 1."""
    headers: Mapping[str, str] = field(default_factory=dict)


def mix(text: str, *, many_rows: int = MANY_ROWS) -> tuple[Kind, ...]:
    """The kinds of users in `one=0.9,many=0.1`, whose weights need not add up to 1. Raises `ValueError`.

    `one` sends one row, `many` sends `many_rows`, `bulk` as many with `X-Priority: bulk`.
    """
    if many_rows < 1:
        raise ValueError(f"a request has a row at least, not {many_rows}")
    known = {"one": (1, {}), "many": (many_rows, {}), "bulk": (many_rows, {"X-Priority": "bulk"})}
    weights: dict[str, float] = {}
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\w+)\s*=\s*(\d+(?:\.\d*)?|\.\d+)\s*", part)
        if not found or found[1] not in known or found[1] in weights:
            raise ValueError(f"{part.strip()!r} in {text!r} is no share such as one=0.9; kinds are {', '.join(known)}")
        weights[found[1]] = float(found[2])
    total = sum(weights.values())
    if not total:
        raise ValueError(f"{text!r} sends nothing: a weight must be more than 0")
    return tuple(
        Kind(name, known[name][0], weight / total, known[name][1]) for name, weight in weights.items() if weight
    )


@dataclass(frozen=True)
class Request:
    """A request that is sent again and again."""

    kind: str
    rows: int
    body: bytes
    headers: Mapping[str, str]
    """Those that are its own: who asks, and with which priority."""


@dataclass(frozen=True)
class Traffic:
    """Different requests of some kinds of users."""

    kinds: tuple[Kind, ...]
    requests: tuple[Request, ...]

    @classmethod
    def from_held_out(cls, kinds: Sequence[Kind], seed: int) -> Traffic:
        """Rows of the test period, simulated as for training with this seed; it takes some seconds.

        The routing key is the customer of the (first) row.
        """
        from causeway.training.dataset import split  # they take seconds and memory that those who only send can save
        from models import gradient_boosting

        test = split(gradient_boosting.default_data(seed), seed=seed).test
        customers = np.arange(len(test)) if test.entity is None else test.entity
        rng = np.random.default_rng(seed)
        requests = []
        for kind in kinds:
            for _ in range(N_ONE if kind.rows == 1 else N_MORE):
                rows = rng.integers(len(test), size=kind.rows)
                headers = {"X-Routing-Key": str(customers[rows[0]]), **kind.headers}
                requests.append(Request(kind.name, kind.rows, body(test.X[rows]), headers))
        return cls(tuple(kinds), tuple(requests))

    @cached_property
    def rows(self) -> NDArray[np.intp]:
        """Rows in each request, (n_requests,)."""
        return np.array([request.rows for request in self.requests])

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.intp]:
        """Places of n requests, (n,): the kind by its weight, the request of that kind evenly."""
        kinds = [request.kind for request in self.requests]
        weight = {kind.name: kind.weight / kinds.count(kind.name) for kind in self.kinds}
        return rng.choice(len(kinds), size=n, p=[weight[kind] for kind in kinds])


def body(X: NDArray[np.float32]) -> bytes:
    """The JSON that asks for X (n_rows, n_features), with the digits that a float32 has, and whole numbers without."""
    rows = [[_number(value) for value in row] for row in X]
    return json.dumps({"features": rows}, separators=(",", ":")).encode()


def _number(value: np.float32) -> float | int:
    return int(value) if value.is_integer() else float(str(value))


class Answers:
    """What is known of right answers, of requests with `rows` each: a version's to the same request stay the same."""

    def __init__(self, rows: Iterable[int]) -> None:
        self._rows = list(rows)
        self._forms: list[tuple[bytes, ...]] = [()] * len(self._rows)
        """Per request, how right answers begin, up to the end of predictions and version."""
        self._predictions: dict[tuple[int, str], NDArray[np.float64]] = {}
        """By request and version."""

    def fault(self, place: int, body: bytes) -> str | None:
        """What is wrong with an answer 200 to the request at `place`; None where nothing is.

        It must have as many predictions as rows, all from 0 to 1, and the same ones as the version's first answer;
        either an object with `predictions`, and `model_version` where there is one, or a list.
        """
        return None if body.startswith(self._forms[place]) else self._second_look(place, body)

    def _second_look(self, place: int, body: bytes) -> str | None:
        try:
            predictions, version = _read(body)
        except (ValueError, TypeError, KeyError, RecursionError):
            return "an answer without predictions"
        if len(predictions) != self._rows[place]:
            return "an answer with too few or too many predictions"
        if not ((predictions >= 0) & (predictions <= 1)).all():
            return "a prediction that is not from 0 to 1"
        known = self._predictions.setdefault((place, version), predictions)
        if known.shape != predictions.shape or np.abs(known - predictions).max() > TOLERANCE:
            return "other predictions than before, of the same version for the same rows"
        if len(self._forms[place]) < MOST_FORMS:
            self._forms[place] += (body[: _end(body)],)
        return None


def _read(body: bytes) -> tuple[NDArray[np.float64], str]:
    """Predictions, (n_rows, width), and the version that gave them. Raises `ValueError`, `TypeError` or `KeyError`."""
    answer: Any = json.loads(body)
    version = answer.get("model_version") if isinstance(answer, dict) else None
    predictions = np.asarray(answer["predictions"] if isinstance(answer, dict) else answer)
    return predictions.astype(np.float64, casting="safe").reshape(len(predictions), -1), str(version)


def _end(body: bytes) -> int:
    """Where predictions and version have ended; all of the body where that cannot be told."""
    predictions, version = _PREDICTIONS.search(body), _VERSION.search(body)
    if not predictions or (version is None and b"model_version" in body):
        return len(body)
    return max(predictions.end(), version.end() if version else 0)
