"""A prediction log in a temporary SQLite database, and experiments simulated into it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine, insert

from causeway.experiments.period import Period
from causeway.monitoring.database import connect, labels, predictions, sqlite_url

CHAMPION, VARIANT = "fraud:a", "fraud:b"
START = 1_000.0
PERIOD = Period(CHAMPION, "challenger", VARIANT, 0.5, START, None)
TAGS = {"champion": CHAMPION, "challenger": VARIANT}


@contextmanager
def database(url: str) -> Iterator[Engine]:
    """The database at `url`, closed afterwards."""
    engine = connect(url)
    yield engine
    engine.dispose()


@contextmanager
def log(folder: Path) -> Iterator[Connection]:
    """An empty prediction log."""
    with database(sqlite_url(folder / "log.sqlite")) as engine, engine.connect() as connection:
        yield connection


def answered(
    request_id: str, variant: str, scores: Sequence[float], time: float, key: str | None = None, tag: str | None = None
) -> dict[str, Any]:
    """A row of `predictions`."""
    return {
        "request_id": request_id,
        "time": time,
        "model_version": tag or TAGS[variant],
        "variant": variant,
        "routing_key": key,
        "n_rows": len(scores),
        "features": json.dumps([[0.0]] * len(scores)),
        "predictions": json.dumps([[score] for score in scores]),
        **dict.fromkeys(("decode_ms", "queue_ms", "compute_ms", "latency_ms"), 0.1),
    }


def labelled(request_id: str, values: Sequence[float], time: float) -> dict[str, Any]:
    """A row of `labels`."""
    return {"request_id": request_id, "labels": json.dumps(values), "time": time}


def write(connection: Connection, answers: Sequence[dict[str, Any]], known: Sequence[dict[str, Any]] = ()) -> None:
    """Answers and labels, committed."""
    connection.execute(insert(predictions), answers)
    if known:
        connection.execute(insert(labels), known)
    connection.commit()


def simulate(
    connection: Connection,
    n: int,
    *,
    rates: tuple[float, float],
    share: float = 0.5,
    tags: dict[str, str] = TAGS,
    start: float = START,
) -> None:
    """`n` requests of a row, each labelled; conversion rates and mean scores of (champion, variant)."""
    generator = np.random.default_rng(0)
    is_variant = generator.random(n) < share
    means = np.where(is_variant, rates[1], rates[0])
    scores = generator.beta(20 * means, 20 * (1 - means))
    converted = (generator.random(n) < scores).astype(int)
    answers, known = [answered("first", "challenger", [0.5], start, tag=tags["challenger"])], []
    for i in range(n):
        variant, at = "challenger" if is_variant[i] else "champion", start + 2 + i / 1000
        answers.append(answered(str(i), variant, [float(scores[i])], at, tag=tags[variant]))
        known.append(labelled(str(i), [int(converted[i])], at + 60))
    write(connection, answers, known)
