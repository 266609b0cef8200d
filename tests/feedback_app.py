"""POST /feedback and nothing else, for tests that kill its process: `uvicorn tests.feedback_app:app`."""

from __future__ import annotations

import os
from collections import Counter

from causeway import errors
from causeway.asgi import Receive, Request, Scope, Send, json_answer
from causeway.contract import Output
from causeway.feedback import Feedback


class Counts:
    """Notes what it is told."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def feedback(self, result: str, n: int) -> None:
        self.counts[result] += n


_feedback = Feedback(
    os.environ.get("DATABASE_URL", ""), metrics=Counts(), output=lambda: Output("p"), max_body_bytes=10**6
)


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """The ASGI application; a request has a minute."""
    request = Request(scope, receive)
    try:
        answer = await _feedback.answer(request, 60_000)
    except errors.Refusal as exc:
        answer = json_answer(exc.status, exc.code.encode(), request.id)
    await request.answer(answer, send)
