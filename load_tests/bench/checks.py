"""Whether a contestant's answers are the model's own."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from load_tests.bench.peers import Peer
from load_tests.bench.work import FIXED_LARGE, FIXED_SMALL, Work
from load_tests.open_loop.client import Answer, ask_all, request

TOLERANCE = 1e-5
"""Largest absolute difference from the model in process; the gate's parity for exported models."""

AT_ONCE = 16
"""Requests in flight while the answers are checked: a batch must not mix up its callers."""

REPEATS = 3


def fault(peer: Peer, port: int, work: Work, folder: Path) -> str | None:
    """What is wrong with the answers at `port`, in a sentence; None when all are right."""
    repeats = REPEATS if work.n_rows == 1 else 1
    expected = work.expected * repeats
    try:
        answers = asyncio.run(_ask(port, work.bodies * repeats))
    except OSError as exc:  # a TimeoutError is one
        return f"it cannot be asked: {exc or 'no answer in time'}"
    if peer.is_model:
        return first_fault(answers, expected)
    size = len((folder / (FIXED_SMALL if work.n_rows == 1 else FIXED_LARGE)).read_bytes())
    wrong = [answer for answer in answers if answer.status != 200 or len(answer.body) != size]
    return f"{len(wrong)} of {len(answers)} answers are not 200 with {size} bytes" if wrong else None


def first_fault(answers: Sequence[Answer], expected: Sequence[NDArray[np.float64]]) -> str | None:
    """The first answer that is not 200 with the expected predictions, in a sentence."""
    for place, (answer, right) in enumerate(zip(answers, expected, strict=True)):
        if answer.status != 200:
            shown = answer.body[:200].decode(errors="replace")
            return f"answer {place + 1} of {len(answers)} is {answer.status or 'none'}: {shown}"
        try:
            given = predictions(answer.body)
        except (ValueError, TypeError, KeyError) as exc:
            return f"answer {place + 1} of {len(answers)} has no predictions: {exc!r}"
        if given.shape != right.shape:
            return f"answer {place + 1} of {len(answers)} has {len(given)} predictions for {len(right)} rows"
        worst = float(np.abs(given - right).max())
        if not worst <= TOLERANCE:
            return f"answer {place + 1} of {len(answers)} is off by {worst:.3g}, more than {TOLERANCE:g}"
    return None


def fault_of_named(answer: Answer, expected: Mapping[str, NDArray[np.float64]]) -> str | None:
    """What is wrong with an answer of any of some versions, of which `expected` has the predictions by their tags."""
    tag = named(answer)
    if answer.status == 200 and tag not in expected:
        return f"an answer of {tag}, which was never deployed"
    return first_fault([answer], [expected.get(tag, np.empty(0))])


def named(answer: Answer) -> str:
    """The version that an answer names; `none` where it names none."""
    with suppress(ValueError, TypeError, KeyError):
        return str(json.loads(answer.body)["model_version"])
    return "none"


def are_apart(expected: Iterable[NDArray[np.float64]]) -> bool:
    """Whether an answer can be right by one version's predictions only."""
    return all(np.abs(one - other).max() > 2 * TOLERANCE for one, other in itertools.combinations(expected, 2))


def predictions(body: bytes) -> NDArray[np.float64]:
    """The numbers of an answer, (n_rows,): a list, or an object with the list under `predictions`."""
    value = json.loads(body)
    return np.asarray(value["predictions"] if isinstance(value, dict) else value, dtype=np.float64).ravel()


async def _ask(port: int, bodies: Sequence[bytes]) -> list[Answer]:
    async with asyncio.timeout(60):
        return await ask_all(port, [request(body) for body in bodies], at_once=AT_ONCE)
