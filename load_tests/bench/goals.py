"""What is asked of Causeway, and what a go shows of it."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any

from load_tests.bench.plan import FULL

DEADLINE_MS = FULL.deadline_ms


@dataclass(frozen=True)
class Goal:
    """A figure, and its bound where there is one."""

    what: str
    path: str
    """Where the figure is among the scenarios, with dots; a number, or a spread over rounds."""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bound(self) -> str:
        """The bound in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "told" if self.at_most is None else f"at most {self.at_most:g}"

    def seen(self, scenarios: Mapping[str, Any]) -> dict[str, Any]:
        """The figure's median, least and most over the rounds; whether the median keeps the bound (None: unknown)."""
        try:
            value = reduce(operator.getitem, self.path.split("."), scenarios)
        except (KeyError, TypeError):
            value = None
        spread = value if isinstance(value, Mapping) else {"median": value}
        return {
            "what": self.what,
            "path": self.path,
            "goal": self.bound,
            **spread,
            "is_met": self._is_met(spread["median"]),
        }

    def _is_met(self, value: float | None) -> bool | None:
        if value is not None and self.at_least is not None:
            return value >= self.at_least
        if value is not None and self.at_most is not None:
            return value <= self.at_most
        return None


def _over(contestant: str, figure: str, connections: int) -> str:
    return f"one_row.ratios.{contestant}.{figure}.{connections}"


def _swapped(figure: str) -> str:
    return f"swaps.ratios.causeway_operated.{figure}.{FULL.swap_connections}"


def _shadowed(figure: str) -> str:
    return f"shadow.ratios.causeway_operated.{figure}.{FULL.swap_connections}"


def _monitored(figure: str, connections: int) -> str:
    return f"monitored.ratios.causeway_unmonitored.{figure}.{connections}"


GOALS = (
    Goal("one row, 16 connections: requests/s over the ceiling's", _over("ceiling", "requests_per_s", 16), 0.70),
    Goal("64 connections: requests/s over the ceiling's", _over("ceiling", "requests_per_s", 64), 0.65),
    Goal("512 connections: requests/s over the ceiling's", _over("ceiling", "requests_per_s", 512), 0.60),
    Goal("16 connections: p99 over the ceiling's", _over("ceiling", "p99_ms", 16), at_most=3),
    Goal("64 connections: p99 over the ceiling's", _over("ceiling", "p99_ms", 64), at_most=3),
    Goal("512 connections: p99 over the ceiling's", _over("ceiling", "p99_ms", 512), at_most=3),
    Goal(
        "512 connections: share of requests without a 200", "one_row.figures.causeway.512.unanswered_share", at_most=0
    ),
    Goal("16 connections: CPU per answer over the ceiling's", _over("ceiling", "server_cpu_us", 16), at_most=1.6),
    Goal("16 connections: requests/s over BentoML's plain API", _over("bentoml_plain", "requests_per_s", 16), 60),
    Goal("16 connections: requests/s over FastAPI + ONNX Runtime", _over("fastapi_onnx", "requests_per_s", 16), 3.5),
    Goal("16 connections: p99 over FastAPI + ONNX Runtime's", _over("fastapi_onnx", "p99_ms", 16), at_most=1),
    Goal("1 000 rows a body: rows/s over ONNX Runtime in process", "thousand_rows.over_engine.causeway", 0.35),
    Goal("everything on, 16 connections: requests/s over everything off", _monitored("requests_per_s", 16), 0.95),
    Goal("everything on, 64 connections: the same", _monitored("requests_per_s", 64), 0.95),
    Goal("everything on, 16 connections: p99 over everything off", _monitored("p99_ms", 16)),
    Goal("everything on, 64 connections: the same", _monitored("p99_ms", 64)),
    Goal("everything on, 16 connections: CPU per answer over everything off", _monitored("server_cpu_us", 16)),
    Goal("/metrics asked every second: p99 over that without", "scraped.ratios.causeway.p99_ms.64"),
    Goal("/metrics asked every second: p99.9 over that without", "scraped.ratios.causeway.p999_ms.64"),
    Goal("two workers on two cores: requests/s over one's", "two_workers.ratios.one_worker.requests_per_s.64"),
    Goal("two workers: cores that they had", "two_workers.figures.two_workers.64.server_cores"),
    Goal("two workers: cores that the load generator had", "two_workers.figures.two_workers.64.generator_cores"),
    Goal("/livez while a body of 50 MB is read: longest, ms", "livez.beside_max_ms", at_most=50),
    Goal("/livez without it: longest, ms", "livez.alone_max_ms"),
    Goal("dear model in process: ms a row alone", "dear.engine_ms_a_row_alone"),
    Goal("dear model in process: ms a row at the best batch size", "dear.engine_ms_a_row_at_best"),
    Goal("dear model in process: best batch size", "dear.best_batch"),
    Goal("dear model, 64 connections: rows/s over that", "dear.over_engine.causeway", 0.90),
    Goal("at twice its capacity: goodput over capacity", "overload.figures.goodput_over_capacity", 0.95),
    Goal("at twice its capacity: p99 of the accepted, ms", "overload.figures.accepted_p99_ms", at_most=DEADLINE_MS),
    Goal("at twice its capacity: p99 of refusals, ms", "overload.figures.refused_p99_ms", at_most=20),
    Goal("at twice its capacity: more memory at the end, MB", "overload.figures.memory_growth_mb", at_most=5),
    Goal("one poisoned row of 16: right answers to the others, share", "poison.right_share", 1),
    Goal("16 callers without it: share of them in batches of 16 rows or more", "poison.in_batch_of_16"),
    Goal("1 000 that hang up: rows in batches that had begun", "hang_up.rows_computed", at_most=100),
    Goal("1 000 that hang up: CPU over that of answering 1 000", "hang_up.hung_up_over_waited", at_most=0.25),
    Goal("1 000 that hang up: the next caller waits, ms", "hang_up.next_answer_ms"),
    Goal("1 000 that hang up: open files kept", "hang_up.growth_after_the_first_round.open_files", at_most=0),
    Goal("1 000 that hang up: MB kept", "hang_up.growth_after_the_first_round.resident_mb", at_most=5),
    Goal("a swap under full load: p99 of its second over that of one without", _swapped("p99_ms"), at_most=2),
    Goal("a swap under full load: requests/s over those without", _swapped("requests_per_s")),
    Goal("swaps under full load: requests without a 200", "swaps.unanswered", at_most=0),
    Goal("promoting: longest until every worker serves it, s", "swaps.longest_promote_s", at_most=1),
    Goal("rolling back: the same", "swaps.longest_rollback_s", at_most=1),
    Goal("two workers: the same", "swaps.longest_of_two_workers_s", at_most=1),
    Goal("answers while versions were swapped: checked", "swaps.checked.answers"),
    Goal("of these wrong, or none", "swaps.checked.wrong", at_most=0),
    Goal(
        f"{FULL.swap_rounds} swaps: MB resident over those after {FULL.first_swaps}",
        "swaps.resident_over_first",
        at_most=1.1,
    ),
    Goal("a shadow, moderate load: p50 over that without", "shadow.over.p50_ms", at_most=1.05),
    Goal("a shadow, moderate load: p99 over that without", "shadow.over.p99_ms", at_most=1.05),
    Goal("a shadow, moderate load: share of the rows that it scored", "shadow.scored_share"),
    Goal("a shadow, full load: requests/s over those without", _shadowed("requests_per_s")),
    Goal("a shadow, full load: p99 over that without", _shadowed("p99_ms")),
    Goal("a shadow, full load: share of the rows that it scored", "shadow.scored_share_at_full_load"),
    Goal("a shadow: requests without a 200", "shadow.unanswered", at_most=0),
)


def seen(scenarios: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The goals of the scenarios that were run."""
    return [goal.seen(scenarios) for goal in GOALS if goal.path.partition(".")[0] in scenarios]
