"""The README's tables, from what a go came to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from load_tests.bench.summary import ENOUGH

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "load_tests/results/bench.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- bench: written by `make bench` -->\n", "<!-- end of bench -->\n"

MUCH = 0.001
"""A share of requests without a 200 from which on it is told."""


def markdown(result: Mapping[str, Any]) -> str:
    """A table of the contestants, a table of what is asked of Causeway, and what limits trust in both."""
    scenarios = result["scenarios"]
    parts = [_contestants(scenarios["one_row"], result)] if "one_row" in scenarios else []
    return "\n".join([*parts, _goals(result["goals"]), _caption(result)])


def write(result: Mapping[str, Any], readme: Path = README) -> None:
    """Puts the tables between the markers of README.md. Raises `ValueError` where it has none."""
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme.name} lacks the lines {BEGIN.strip()} and {END.strip()}; add them where it belongs")
    before, rest = text.split(BEGIN)
    readme.write_text(before + BEGIN + markdown(result) + END + rest.split(END)[1])


def _contestants(scenario: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    loads = [str(connections) for connections in result["settings"]["connections"]]
    least = loads[0]
    lines = [
        f"| one row, one worker, at {' / '.join(loads)} connections | requests/s | p99 ms "
        f"| CPU µs an answer at {least} | peak MB at most | Causeway's requests/s over its |",
        "|---|---|---|---|---|---|",
    ]
    failed = {each["contestant"]: each["why"] for each in result["failures"] if each["scenario"] == "one_row"}
    for name, contestant in result["contestants"].items():
        told = scenario["figures"].get(name)
        if told is None:
            why = (failed | result["skipped"]).get(name, "")
            lines.append(f"| {contestant['title']} | no figures: {_one_line(why)} | | | | |")
            continue
        over = scenario["ratios"].get(name, {}).get("requests_per_s", {})
        cells = (
            contestant["title"] + _unanswered(told),
            _each(each["requests_per_s"] for each in told.values()),
            _each(each["p99_ms"] for each in told.values()),
            _median(told[least]["server_cpu_us"]),
            _median(told[max(told, key=int)]["peak_mb"]),
            _each(over[load] for load in told if load in over),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _goals(goals: Iterable[Mapping[str, Any]]) -> str:
    lines = ["| what | goal | seen |", "|---|---|---|"]
    for goal in goals:
        is_spread = "least" in goal and goal["least"] != goal["most"]
        rounds = f" ({_number(goal['least'])} to {_number(goal['most'])})" if is_spread else ""
        verdict = " **no**" if goal["is_met"] is False else ""
        lines.append(f"| {goal['what']} | {goal['goal']} | {_number(goal['median'])}{rounds}{verdict} |")
    return "\n".join(lines) + "\n"


def _caption(result: Mapping[str, Any]) -> str:
    plan, versions = result["settings"], result["versions"]
    caveats = [scenario["caveats"] for scenario in result["scenarios"].values() if "caveats" in scenario]
    bound, disturbed = (sum(len(each[name]) for each in caveats) for name in ("bound_by_generator", "disturbed"))
    commit, _, dirt = result["commit"].partition("-")
    n_runs = sum(each["runs"] for each in caveats)
    return (
        f"Medians of {plan['rounds']} interleaved rounds of {plan['run_s']} s (slower peers: one round in "
        f"{plan['slow_every']}, of {plan['slow_run_s']} s; swaps: {plan['swap_rounds']} rounds, a shadow: "
        f"{plan['shadow_rounds']}, other work: {plan['few_rounds']}), after warm-up "
        "that is not counted. Ratios are medians of the ratios within a round; in brackets the least and the most. "
        f"{result['cpu']}, {result['cores']} cores, Python {versions['python']}, BentoML {versions['bentoml']}, "
        f"ONNX Runtime {versions['onnxruntime']}, wrk {versions['wrk']}, commit {commit[:12]}"
        f"{f' ({dirt})' if dirt else ''}, seed {result['seed']}. In {bound} of {n_runs} runs the load generator, not "
        f"the server, had no time left; in {disturbed} other processes took more than a tenth of a core, and these "
        f"count only where fewer than {ENOUGH} others do.\n"
    )


def _unanswered(told: Mapping[str, Any]) -> str:
    """In brackets, at which loads how many requests got no 200."""
    shares = {load: each["unanswered_share"] for load, each in told.items()}
    some = [f"{share:.0%} at {load}" for load, share in shares.items() if share is None or share > MUCH]
    return f" (not answered with 200: {', '.join(some)})" if some else ""


def _each(spreads: Iterable[Mapping[str, float] | None]) -> str:
    return " / ".join(map(_median, spreads))


def _median(spread: Mapping[str, float] | None) -> str:
    return _number(spread["median"] if spread else None)


def _number(value: float | None) -> str:
    """Two to three significant digits, thousands apart; a dash for None."""
    if value is None:
        return "-"
    digits = f"{value:.3g}" if abs(value) >= 10 else f"{value:.2g}"
    return f"{float(digits):,.10g}".replace(",", " ")


def _one_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:120].replace("|", "\\|")
