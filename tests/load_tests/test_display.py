"""What is shown while a test runs, on a terminal and elsewhere."""

import io

from rich.console import Console

from load_tests.display import Display
from load_tests.machine import Held
from load_tests.open_loop.fleet import Progress
from load_tests.outcome import Glance, Phase
from tests.load_tests.stages import OBJECTIVE, stage

PROGRESS = Progress(4.0, 400, 399, 380, 10, 2, 0, 1, 6, p50_ms=3.25, p99_ms=42.0, cpu_s=(0.5, 0.7))
GLANCES = [Glance(at_s, Held(9, 3, 120.0), at_s * 0.8) for at_s in (2.0, 3.2, 4.0)]


def shown(*, is_terminal: bool) -> str:
    """Everything that was written of two stages and the progress of a third."""
    console = Console(file=io.StringIO(), force_terminal=is_terminal, width=160, color_system=None)
    with Display(console, OBJECTIVE) as display:
        display.done(stage(100))
        display.done(stage(200, p99_ms=None))
        display.progress(Phase(300, 10), 12.0, PROGRESS, GLANCES)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()


def test_a_terminal_shows_the_current_numbers_beside_the_stages_so_far() -> None:
    text = shown(is_terminal=True)
    assert "300/s offered, 8 s left: p50 3.25 ms, p99 42 ms; server 0.80 cores, generator 0.30 cores" in text
    assert "due 400, sent 399, right 380, refused 10, failed 2, wrong 0, unsent 1, in flight 6" in text
    assert [line.split()[0] for line in text.splitlines() if "cores" in line][:2] == ["100", "200"]


def test_elsewhere_each_stage_is_one_line() -> None:
    text = shown(is_terminal=False)
    assert len(text.splitlines()) == 2
    assert "100/s: goodput 100/s, 0 later, 0 refused, 0 failed, 0 unsent, p50 4 ms, p99 20 ms" in text
    assert "meets the objective" in text.splitlines()[0]
    assert "p50 -, p99 -" in text.splitlines()[1]
    assert "does not meet the objective" in text.splitlines()[1]


def test_a_stage_that_the_generator_may_have_spoilt_says_so() -> None:
    console = Console(file=io.StringIO(), width=300)
    with Display(console, OBJECTIVE) as display:
        display.done(stage(100, p99_ms=400, late_p99_ms=300))
    assert isinstance(console.file, io.StringIO)
    said = console.file.getvalue()
    assert "500 later, 0 refused" in said
    assert "may be the generator's doing: it turns to requests 300 ms late (p99)" in said
