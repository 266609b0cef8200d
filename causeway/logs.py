"""Events as one line each: a name and fields, JSON in production, readable on a terminal.

One event a decision (loaded, refused, failed). Requests are not logged, and features never are.
"""

from __future__ import annotations

import logging
import math
import re
import sys
import time
from collections import Counter
from collections.abc import Hashable

import structlog

# Without the frames' variables: a request's features are among them.
_TRACEBACKS = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False),
)


def configure(log_format: str) -> None:
    """Writes events to stderr as `json`, as `console` lines, or as `auto` decides by whether stderr is a terminal."""
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *([] if console else [_TRACEBACKS]),
            renderer,
        ],
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),  # a line in one piece: workers share the file
        cache_logger_on_first_use=False,
    )
    # Requests belong to metrics: uvicorn prepares a line for each as long as there is a handler, and BentoML has one.
    logging.getLogger("uvicorn.access").propagate = False


def without_numbers(message: str) -> str:
    """`message` with `#` for each number: what is left cannot be a feature."""
    return re.sub(r"\d+", "#", message)


class Repeats:
    """Which of many equal events are worth a line: the first in every `EVERY_S`. A line with a traceback takes long."""

    EVERY_S = 1.0

    def __init__(self) -> None:
        self._told_at: dict[Hashable, float] = {}
        self._untold: Counter[Hashable] = Counter()

    def untold(self, event: Hashable) -> int | None:
        """How many like it were not told since the last; None if this one is not to be told either."""
        now = time.monotonic()
        if now - self._told_at.get(event, -math.inf) < self.EVERY_S:
            self._untold[event] += 1
            return None
        self._told_at[event] = now
        return self._untold.pop(event, 0)


def get() -> structlog.typing.FilteringBoundLogger:
    """The logger; call as `log.info("version_loaded", model_version=tag)`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger
