"""When Python looks for reference cycles: not while there is most to do."""

from __future__ import annotations

import gc

THRESHOLDS = (50_000, 20, 20)
"""With Python's own (700, 10, 10), 2 000 requests in flight were searched for garbage again and again: two fifths of
all the time, while there was most to do. Reference cycles are rare here, as in exceptions."""

IDLE = 0.02
"""With less to do than this share of the time, it is looked for all the same."""

FEW_OBJECTS = 2_000
"""That are new since it was looked for last: not worth it."""


def settle() -> None:
    """Never looks again at what lives as long as the process: full collections took 100 ms and more."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)


def tidy(busy: float) -> None:
    """Looks for what the thresholds leave, some MB, if the event loop works for less than `IDLE` of the time."""
    new, *survived = gc.get_count()
    if busy < IDLE and (new > FEW_OBJECTS or any(survived)):
        gc.collect()
