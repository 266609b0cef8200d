"""The pages: what stands in them; in which order is in templates/. They refer to nothing outside themselves."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from load_tests.comparison import Comparison
from load_tests.report import against_load, over_time, overlay, tables
from load_tests.report.against_load import stages_of
from load_tests.report.plot import Plot
from load_tests.report.words import NONE, exactly, listed, number, percent
from load_tests.result import Options, Result
from load_tests.verdict import AGREEMENT, generator_fault, spread

ASSUMES = {
    "Universal Scalability Law": "Waiting and crosstalk grow with the requests in flight, and p99 stays the same "
    "multiple of the mean.",
    "M/G/1": "One process answers one request after the other, these come at random, and each costs the same CPU at "
    "every load.",
    "batch server": "A call of the engine takes all that has gathered meanwhile, at a cost of its own and one for each "
    "row, and p99 stays the same multiple of a cycle.",
}
"""By `Fit.name`, what is taken for granted."""

_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def unbroken(sentence: str) -> str:
    """The sentence, with digits that lines do not break between."""
    return re.sub(r"(?<=\d) (?=\d{3}\b)", "\N{NARROW NO-BREAK SPACE}", sentence)


_TEMPLATES.filters["unbroken"] = unbroken


def report(result: Result) -> str:
    """The page of a load test, as HTML. Where the generator was the limit, no capacity stands in it."""
    has_capacity = result.options.shape == "ramp" and not result.is_generator_limited
    return _TEMPLATES.get_template("report.html").render(
        result=result,
        ended_early=result.circumstances.get("ended_early"),
        asked=asked(result),
        plots=plots(result),
        repeats=tables.repeats(result) if has_capacity else None,
        agreement=agreement(result),
        fits=tables.fits(result) if has_capacity and result.fits else None,
        assumptions={fit.name: f"{ASSUMES[fit.name]} Fitted: {listed(fit.parameters)}." for fit in result.fits},
        model_plots=against_load.models(result) if has_capacity else [],
        stages=tables.stages(result),
        faults=faults(result),
        measured=measured(result),
        circumstances=circumstances(result),
    )


def comparison(results: Sequence[Result], compared: Comparison) -> str:
    """The page of several load tests, as HTML."""
    return _TEMPLATES.get_template("comparison.html").render(
        names=", ".join(result.name for result in results),
        comparison=compared,
        overlays=tables.overlays(compared),
        plots=overlay.plots(results),
        asked=side_by_side(results),
    )


def side_by_side(results: Sequence[Result]) -> tables.Table:
    """What was asked of each, and its circumstances."""
    told = [asked(result) | circumstances(result) for result in results]
    rows = [[name, *(each.get(name, NONE) for each in told)] for name in dict.fromkeys(chain(*told))]
    heads = ["", *(result.name for result in results)]
    return tables.Table("What was asked, and where", heads, rows, texts=range(1, len(heads)))


def plots(result: Result) -> list[Plot]:
    """Over the offered load for a ramp, over time otherwise."""
    return against_load.plots(result) if result.options.shape == "ramp" else over_time.plots(result)


def asked(result: Result) -> dict[str, str]:
    """What was to be found out, and with which requests."""
    options = result.options
    return {
        "Objective": str(result.objective),
        "Target": options.url + (f", serving {options.model}" if options.model else ""),
        "Settings": listed(options.settings),
        "Shape": options.shape,
        "Arrivals": options.arrivals,
        "Callers wait": "as the server chooses"
        if options.deadline_ms is None
        else f"{exactly(options.deadline_ms)} ms",
        "Connections": NONE if options.connections is None else f"at most {exactly(options.connections)}",
        "Users": ", ".join(f"{percent(part)} {kind} ({rows(options, kind)})" for kind, part in options.mix.items()),
        "Stage": f"{exactly(options.stage_s)} s, after {exactly(options.warm_up_s)} s of warm-up that do not count",
        "Repeats": str(options.repeats),
        "Seed": str(options.seed),
    }


def rows(options: Options, kind: str) -> str:
    """What is in a request of a kind of user."""
    n = options.rows[kind]
    return f"{n} row{'s' if n > 1 else ''} a request"


def agreement(result: Result) -> str:
    """How far apart the capacities of the repeats were."""
    seen = spread(repeat.sustained_rate for repeat in result.repeats)
    if len(result.repeats) == 1:
        return "With one repeat, nobody knows how far apart two would be."
    if seen is None or seen.n < len(result.repeats):
        return "Not every repeat sustained a rate: they do not agree, or the lowest rate was too high."
    apart = f"The sustained rates lie {percent(seen.share)} of their median apart"
    verdict = "agree" if seen.share <= AGREEMENT else "do not agree"
    return f"{apart}: to within {percent(AGREEMENT)}, they {verdict}."


def faults(result: Result) -> dict[str, str]:
    """Whatever was wrong with answers, the most frequent first."""
    counts = sum((Counter(stage.faults) for stage in stages_of(result)), Counter[str]())
    return {fault: exactly(n) for fault, n in counts.most_common()}


def measured(result: Result) -> dict[str, str]:
    """What is to be known of the generator to believe the rest."""
    stages, n = stages_of(result), result.options.generators
    lateness = max((stage.late_p99_ms for stage in stages), default=None)
    busiest = max((stage.usage.busiest_generator for stage in stages), default=None)
    free = [stage for stage in stages if not stage.unsent and not generator_fault(stage, result.objective)]
    off = max((abs(stage.sent / stage.due - 1) for stage in free if stage.due), default=None)
    n_full = sum(stage.unsent > 0 for stage in stages)
    full = f"; in {n_full} of {len(stages)} stages the server held all connections" if n_full else ""
    return {
        "Generator": f"{n} process{'es' if n > 1 else ''}, {number(result.generator_us)} µs of CPU a request",
        "Its busiest process": f"at most {number(busiest)} of a core",
        "Its lateness": f"p99 of a stage at most {number(lateness)} ms after the intended moment; part of the latency",
        "Offered and achieved": f"those due and those gone out differ by at most {percent(off)} where there was a "
        f"connection for each and the generator was not the limit{full}",
    }


def circumstances(result: Result) -> dict[str, str]:
    """Where it was measured, and with what."""
    known = {name: value for name, value in result.circumstances.items() if value is not None}
    told = {name: value for name, value in known.items() if name not in ("ended_early", "seed")}
    return {name.replace("_", " ").capitalize(): _plain(value) for name, value in told.items()}


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return listed(value)
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return number(value) if isinstance(value, float) else str(value)
