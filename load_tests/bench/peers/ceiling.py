"""The most that a Python server on this stack could answer: the body is read, and fixed bytes go back."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["BENCH_FOLDER"])
LARGE_BYTES = 8_192
"""A body from here on has many rows, and gets an answer as long as theirs."""


def _answer(file: str) -> tuple[dict[str, Any], dict[str, Any]]:
    body = (FOLDER / file).read_bytes()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    return (
        {"type": "http.response.start", "status": 200, "headers": headers},
        {"type": "http.response.body", "body": body},
    )


SMALL, LARGE = _answer("answer_small.json"), _answer("answer_large.json")


async def app(
    scope: dict[str, Any],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    send: Callable[[dict[str, Any]], Awaitable[None]],
) -> None:
    """The ASGI application."""
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    start, body = LARGE if size > LARGE_BYTES else SMALL
    await send(start)
    await send(body)
