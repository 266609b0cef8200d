"""What a load test shows while it runs: the stages so far, and the current one's live numbers."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from load_tests.objective import Objective
from load_tests.open_loop.fleet import Progress
from load_tests.outcome import Glance, Phase
from load_tests.stage import Stage
from load_tests.verdict import generator_fault

RECENT_S = 1.0
"""Of which the live numbers of CPU are."""


class Display:
    """Live on a terminal; otherwise one line for each stage. Use it as a context."""

    def __init__(self, console: Console, objective: Objective) -> None:
        self._console, self._objective = console, objective
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._stages: list[Stage] = []

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def says(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, highlight=False, soft_wrap=True)

    def progress(self, phase: Phase, seconds: float, progress: Progress, glances: Sequence[Glance]) -> None:
        """The live numbers; seconds: of the whole schedule."""
        if self._live.is_started:
            line = Text(_now(phase, seconds, progress, glances))
            self._live.update(Group(_table(self._stages, self._objective), line), refresh=True)

    def done(self, stage: Stage) -> None:
        """A stage more."""
        self._stages.append(stage)
        if not self._live.is_started:
            self.says(_line(stage, self._objective))


def _now(phase: Phase, seconds: float, progress: Progress, glances: Sequence[Glance]) -> str:
    """Where the current schedule is, in lines."""
    left_s = max(0.0, seconds - progress.at_s)
    what = "offered" if phase.counts else "warming up"
    counts = ("due", "sent", "right", "refused", "failed", "wrong", "unsent", "in_flight")
    return (
        f"\n{phase.rate:g}/s {what}, {left_s:.0f} s left: p50 {_ms(progress.p50_ms)}, p99 {_ms(progress.p99_ms)}; "
        f"server {_cores(_recent_cores(glances))}, generator {_cores(sum(progress.cpu_s) / max(progress.at_s, 1e-3))}\n"
        + ", ".join(f"{name.replace('_', ' ')} {getattr(progress, name)}" for name in counts)
    )


def _recent_cores(glances: Sequence[Glance]) -> float | None:
    """What the server used of late; None where it cannot be seen."""
    recent = [glance for glance in glances if glance.at_s >= glances[-1].at_s - RECENT_S]
    if len(recent) < 2:
        return None
    return (recent[-1].cpu_s - recent[0].cpu_s) / (recent[-1].at_s - recent[0].at_s)


def _table(stages: Sequence[Stage], objective: Objective) -> Table:
    """Of the stages so far."""
    table = Table(
        "offered/s", "goodput/s", "refused", "failed", "unsent", "p50", "p99", "server", "generator", box=None
    )
    for column in table.columns:
        column.justify = "right"
    for stage in stages:
        table.add_row(*_row(stage), style="" if stage.meets(objective) else "red")
    return table


def _row(stage: Stage) -> tuple[str, ...]:
    latency = stage.latency
    return (
        f"{stage.rate:.5g}",
        f"{stage.goodput:.5g}",
        str(stage.refused),
        str(stage.failed + stage.wrong),
        str(stage.unsent),
        _ms(latency.p50_ms if latency else None),
        _ms(latency.p99_ms if latency else None),
        _cores(stage.usage.server),
        _cores(stage.usage.generator),
    )


def _line(stage: Stage, objective: Objective) -> str:
    rate, goodput, refused, failed, unsent, p50, p99, server, generator = _row(stage)
    counts = f"{stage.right - stage.good} later, {refused} refused, {failed} failed, {unsent} unsent"
    return (
        f"{rate}/s: goodput {goodput}/s, {counts}, p50 {p50}, p99 {p99}, server {server}, generator {generator}: "
        f"{_verdict(stage, objective)}"
    )


def _verdict(stage: Stage, objective: Objective) -> str:
    if stage.meets(objective):
        return "meets the objective"
    fault = generator_fault(stage, objective)
    return "does not meet the objective" + (f", which may be the generator's doing: {fault}" if fault else "")


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g} ms"


def _cores(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} cores"
