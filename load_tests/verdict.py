"""What the stages of a ramp say: the rate that is sustained, the rate at which it tips over, and because of what."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np

from load_tests.objective import Objective
from load_tests.result import Repeat
from load_tests.stage import Stage

FULL = 0.9
"""A process that used this much of a core, and a machine that used this share of its cores, had nothing to spare."""

LATE_SHARE = 0.1
"""Of the objective's p99: a generator that is later than this, at its own p99, measures itself."""

TWICE = 2.0
"""Times the tipping rate: how far it is told of whether the server degrades."""

AGREEMENT = 0.1
"""Of the median: repeats that are no further apart agree."""


class Spread(msgspec.Struct, frozen=True):
    """Some values in short."""

    median: float
    least: float
    most: float
    n: int

    @property
    def share(self) -> float:
        """From the least to the most, over the median; 0 where they are the same."""
        return (self.most - self.least) / self.median if self.most > self.least else 0.0


def spread(values: Iterable[float | None]) -> Spread | None:
    """Of those that are not None; None of none."""
    known = [value for value in values if value is not None]
    return Spread(statistics.median(known), min(known), max(known), len(known)) if known else None


def judge(stages: Sequence[Stage], objective: Objective) -> Repeat:
    """A ramp and its verdict, from its stages in the order in which they were offered.

    Where the generator was the limit there is no capacity figure: both rates are None.
    """
    tipping = tipping_rate(stages, objective)
    if tipping is None:
        why = "every rate met the objective" if stages else "nothing was measured"
        return Repeat(list(stages), sustained_rate(stages, objective), None, why, "none")
    at_tipping = [stage for stage in reversed(_searched(stages)) if stage.rate == tipping]
    last = next((stage for stage in at_tipping if not is_disturbed(stage, objective)), at_tipping[0])
    if fault := generator_fault(last, objective):
        why = f"at {number(tipping)} requests/s the generator was the limit: {fault}"
        return Repeat(list(stages), None, None, why, "generator")
    limit, words = _limit(last)
    why = f"{_miss(last, objective)}: {words}"
    return Repeat(list(stages), sustained_rate(stages, objective), tipping, why, limit)


def tipping_rate(stages: Sequence[Stage], objective: Objective) -> float | None:
    """Lowest rate in requests a second that failed, for whatever reason; None where none did.

    A rate failed when no stage at it met the objective: one that is offered again and then meets it was disturbed.
    """
    stages = _searched(stages)
    met = {stage.rate for stage in stages if stage.meets(objective)}
    return min((stage.rate for stage in stages if stage.rate not in met), default=None)


def sustained_rate(stages: Sequence[Stage], objective: Objective) -> float | None:
    """Highest rate in requests a second that met the objective, as every lower one did; None where none did."""
    tipping = tipping_rate(stages, objective)
    return max((stage.rate for stage in _searched(stages) if tipping is None or stage.rate < tipping), default=None)


def _searched(stages: Iterable[Stage]) -> list[Stage]:
    """Those that say where it tips over; those of turns came after that was known."""
    return [stage for stage in stages if not stage.in_turn]


def generator_fault(stage: Stage, objective: Objective) -> str | None:
    """Why the generator was the limit of a stage, as a clause; None where it was not.

    Requests without a connection are its fault only where it has fewer of them than a server that just keeps to the
    objective needs (Little's law), and the server has time left.
    """
    usage = stage.usage
    if usage.busiest_generator >= FULL:
        return f"its busiest process uses {_cores(usage.busiest_generator)}"
    if _is_late(stage, objective):
        return f"it turns to requests {number(stage.late_p99_ms)} ms late (p99)"
    needed = stage.rate * objective.p99_ms / 1e3
    if stage.unsent and stage.connections < needed and (usage.busiest_server_process or 0.0) < FULL:
        return f"{_share(stage.unsent, stage)} of the requests find none of its {stage.connections} connections free"
    return None


def is_disturbed(stage: Stage, objective: Objective) -> bool:
    """Whether the generator was late with time left: something else had its core. Says nothing of the server."""
    return _is_late(stage, objective) and stage.usage.busiest_generator < FULL


def _is_late(stage: Stage, objective: Objective) -> bool:
    return stage.late_p99_ms > LATE_SHARE * objective.p99_ms


def is_generator_limited(repeats: Iterable[Repeat]) -> bool:
    """Whether the generator was the limit in any repeat."""
    return any(repeat.limit == "generator" for repeat in repeats)


def degradation(repeat: Repeat, objective: Objective, times: float) -> float | None:
    """Goodput at so many times the tipping rate, over the peak goodput, and 1 at most.

    Where that rate was offered in turn with the one that has the peak, it is the median over the turns; otherwise it is
    interpolated between rates, and the peak that of all stages. None where nothing tipped over, or the generator was
    the limit there.
    """
    if repeat.tipping_rate is not None and (ratios := _by_turns(repeat, objective, times * repeat.tipping_rate)):
        return min(statistics.median(ratios), 1.0)
    peak = max((stage.goodput for stage in repeat.stages), default=0.0)
    reached = _beyond(repeat, objective, times, lambda stage: stage.goodput)
    return reached / peak if reached is not None and peak else None


def sent_share(repeat: Repeat, objective: Objective, times: float) -> float | None:
    """Share of the requests that went out at so many times the tipping rate, interpolated; None as `degradation` is.

    A server that lets the surplus wait holds all connections, and what comes then finds none.
    """
    return _beyond(repeat, objective, times, lambda stage: stage.sent / max(stage.due, 1))


def _by_turns(repeat: Repeat, objective: Objective, rate: float) -> list[float]:
    """Goodput of each stage at this rate over that of the one before it that it was in turn with."""
    ratios: list[float] = []
    peak = 0.0
    for stage in repeat.stages:
        if stage.in_turn and not generator_fault(stage, objective):
            if stage.rate != rate:
                peak = stage.goodput
            elif peak:
                ratios.append(stage.goodput / peak)
    return ratios


def _beyond(repeat: Repeat, objective: Objective, times: float, value: Callable[[Stage], float]) -> float | None:
    if repeat.tipping_rate is None:
        return None
    values = ((stage.rate, value(stage)) for stage in repeat.stages if not generator_fault(stage, objective))
    return at_rate(by_rate(values), times * repeat.tipping_rate)


def by_rate(values: Iterable[tuple[float, float]]) -> dict[float, float]:
    """The mean of the values at each rate, by ascending rate."""
    found: dict[float, list[float]] = {}
    for rate, value in sorted(values):
        found.setdefault(rate, []).append(value)
    return {rate: statistics.fmean(several) for rate, several in found.items()}


def at_rate(values: dict[float, float], rate: float) -> float | None:
    """Interpolated linearly between the values of `by_rate`; None outside their rates."""
    if not values or not min(values) <= rate <= max(values):
        return None
    return float(np.interp(rate, list(values), list(values.values())))


def sentence(repeats: Sequence[Repeat], objective: Objective) -> str:
    """What a person wants to know, by the repeat whose sustained rate is the median.

    Rates are of predictions (rows), and of requests as well where a request has several rows.
    """
    repeats = [repeat for repeat in repeats if repeat.stages]
    if not repeats:
        return "Nothing was measured."
    limited = [repeat for repeat in repeats if repeat.limit == "generator"]
    if limited:
        return f"No capacity figure: {limited[0].why}."
    rows = _rows(repeats)
    verdict = _verdict(median_repeat(repeats), objective, rows)
    return " ".join(filter(None, [verdict, _at_twice(repeats, objective), _agreement(repeats, rows)]))


def median_repeat(repeats: Sequence[Repeat]) -> Repeat:
    """The one with the median sustained rate; of an even number, the lower of the two."""
    return sorted(repeats, key=_sustained)[(len(repeats) - 1) // 2]


def number(value: float) -> str:
    """Three significant digits, in groups of three: `14 200`, `3.1`, `0.412`."""
    rounded = float(f"{value:.3g}")
    return f"{rounded:,.0f}".replace(",", " ") if rounded >= 100 else f"{rounded:g}"


def _verdict(repeat: Repeat, objective: Objective, rows: float) -> str:
    if repeat.sustained_rate is None:
        assert repeat.tipping_rate is not None
        lowest = _rate(repeat.tipping_rate, rows)
        return f"Does not keep to {objective} at any rate: at {lowest}, the lowest, {repeat.why}."
    at = f"{_rate(repeat.sustained_rate, rows)} with {objective} (generator at {_generator(repeat)} of a core)"
    if repeat.tipping_rate is None:
        return f"Sustains at least {at}; {repeat.why}."
    return f"Sustains {at}; tips over at {_rate(repeat.tipping_rate, rows)} because {repeat.why}."


def _at_twice(repeats: Sequence[Repeat], objective: Objective) -> str:
    """How the server degrades, where it sustained anything."""
    shares = spread(degradation(repeat, objective, TWICE) for repeat in repeats if repeat.sustained_rate is not None)
    if shares is None:
        return ""
    least, median, most = (number(100 * share) for share in (shares.least, shares.median, shares.most))
    between = f" ({least} to {most} %)" if least != most else ""
    return f"At twice that, goodput is {median} % of its peak{between}."


def _rate(rate: float, rows: float) -> str:
    requests = f" ({number(rate)} requests/s)" if rows != 1 else ""
    return f"{number(rate * rows)} predictions/s{requests}"


def _rows(repeats: Sequence[Repeat]) -> float:
    """In a request on average, of all that were due: the users' mix is the same at every rate."""
    stages = [stage for repeat in repeats for stage in repeat.stages]
    return statistics.fmean([stage.rows for stage in stages], weights=[max(stage.due, 1) for stage in stages])


def _generator(repeat: Repeat) -> str:
    """What the busiest of its processes used at the sustained rate."""
    at = [stage.usage.busiest_generator for stage in repeat.stages if stage.rate == repeat.sustained_rate]
    return f"{100 * max(at):.0f} %"


def _agreement(repeats: Sequence[Repeat], rows: float) -> str:
    rates = spread(_sustained(repeat) * rows for repeat in repeats)
    assert rates
    if rates.n == 1:
        return ""
    if rates.most - rates.least <= AGREEMENT * rates.median:
        return f"Median of {rates.n} repeats, which agree within {number(100 * rates.share)} %."
    apart = f"{number(100 * rates.share)} % apart" if rates.median else "far apart"
    return (
        f"Median of {rates.n} repeats, which are {apart}: {number(rates.least)} to {number(rates.most)} predictions/s."
    )


def _sustained(repeat: Repeat) -> float:
    return repeat.sustained_rate or 0.0


def _miss(stage: Stage, objective: Objective) -> str:
    """The part of the objective that was not kept, or both."""
    missed = []
    if stage.latency is not None and stage.latency.p99_ms > objective.p99_ms:
        missed.append(f"p99 is {number(stage.latency.p99_ms)} ms")
    if stage.errors > objective.errors or stage.latency is None:
        missed.append(_errors(stage))
    return " and ".join(missed)


def _errors(stage: Stage) -> str:
    """The most frequent way in which requests got no right answer, with the code or the fault that was seen most."""
    ways: list[tuple[int, str, Mapping[str, float]]] = [
        (stage.refused, "are refused", stage.server_side.refusals),
        (stage.failed, "fail", stage.faults),
        (stage.wrong, "get a wrong answer", stage.faults),
        (stage.unsent, "find no connection", {}),
    ]
    n, way, seen = max(ways, key=lambda each: each[0])
    most = max(seen, key=lambda name: seen[name], default=None)
    example = f" ({most})" if most else ""
    return f"{_share(n, stage)} of the requests {way}{example}"


def _share(n: int, stage: Stage) -> str:
    return f"{number(100 * n / max(stage.due, 1))} %"


def _limit(stage: Stage) -> tuple[str, str]:
    """`Repeat.limit` of a stage that the generator did not limit, and what says so."""
    usage = stage.usage
    busiest = usage.busiest_server_process
    if busiest is not None and busiest >= FULL:
        return "server", f"the server's busiest process uses {_cores(busiest)}"
    if usage.machine >= FULL:
        gets = f", the server's busiest process with {_cores(busiest)}" if busiest is not None else ""
        return "machine", f"the machine's cores are busy for {100 * usage.machine:.0f} % of the time{gets}"
    if busiest is None:
        return "latency", "the generator has time left, and the server's CPU cannot be seen from here"
    return "latency", f"not for want of CPU, the server's busiest process uses {_cores(busiest)}"


def _cores(used: float) -> str:
    return f"{used:.2f} of a core" if used <= 1 else f"{used:.2f} cores"
