"""The README's tables, from a result file: `python -m load_tests.bench.report` prints them, `--write` writes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from load_tests.bench.peers import BENTOML, CAUSEWAY, CEILING, FASTAPI_ONNX

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "load_tests/results/bench.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- bench: written by `python -m load_tests.bench.report --write` -->\n", "<!-- end of bench -->\n"

MUCH = 0.001
"""A share of requests without a 200 from which on it is told."""


def markdown(result: Mapping[str, Any]) -> str:
    """A table of the contestants, a table of the other scenarios, and what limits trust in them."""
    scenarios = result["scenarios"]
    rows = [row(scenarios[name], result) for name, row in _ROWS.items() if name in scenarios]
    parts = [
        _contestants(scenarios["one_row"], result) if "one_row" in scenarios else "",
        "| other work | Causeway |\n|---|---|\n" + "".join(rows) if rows else "",
        _caption(result),
    ]
    return "\n".join(part for part in parts if part)


def write(result: Mapping[str, Any], readme: Path = README) -> None:
    """Puts the tables between the markers of README.md. Raises `ValueError` where it has none."""
    text = readme.read_text()
    if BEGIN not in text or END not in text:
        raise ValueError(f"{readme.name} lacks the lines {BEGIN.strip()} and {END.strip()}; add them where it belongs")
    before, rest = text.split(BEGIN)
    readme.write_text(before + BEGIN + markdown(result) + END + rest.split(END)[1])


def _contestants(scenario: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    loads = [str(connections) for connections in result["settings"]["connections"]]
    least, most = loads[0], loads[-1]
    lines = [
        f"| one row, one worker, at {' / '.join(loads)} connections | requests/s | p99 ms "
        f"| CPU µs a request at {least} | peak MB at {most} | Causeway's requests/s, times its |",
        "|---|---|---|---|---|---|",
    ]
    for name in result["contestants"]:
        if name not in scenario["summary"]:
            continue
        told = scenario["summary"][name]
        over = scenario["causeway_over"].get(name, {}).get("requests_per_s", {})
        cells = (
            result["contestants"][name]["title"] + _unanswered(told),
            _each(told[load]["requests_per_s"] for load in loads),
            _each(told[load]["p99_ms"] for load in loads),
            _number(told[least]["server_cpu_us"]),
            _number(told[most]["peak_mb"]),
            _each(over.get(load) for load in loads) if over else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    failed = {failure["contestant"]: failure["why"] for failure in result["failures"] if _is_in(failure, "one_row")}
    for name, why in (failed | result["skipped"]).items():
        lines.append(f"| {result['contestants'][name]['title']} | no figures: {_one_line(why)} | | | | |")
    return "\n".join(lines) + "\n"


def _thousand_rows(scenario: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    over, load = scenario["rows_per_s_over_engine"], str(result["settings"]["many_connections"])
    ours = scenario["summary"].get(CAUSEWAY.name, {}).get(load, {}).get("rows_per_s")
    others = ", ".join(
        f"{name} {_number(over.get(peer.name))}"
        for name, peer in (("the ceiling", CEILING), ("FastAPI + ONNX Runtime", FASTAPI_ONNX), ("BentoML", BENTOML))
    )
    return _row(
        f"{_number(result['settings']['many_rows'])} rows in one body, {load} connections",
        f"{_number(ours)} rows/s, {_number(over.get(CAUSEWAY.name))} of ONNX Runtime called in process ({others})",
    )


def _two_workers(scenario: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    load = str(result["settings"]["dear_connections"])
    told = scenario["summary"].get("causeway_2_workers", {}).get(load)
    over_one = scenario["two_over_one"].get("causeway_1_worker")
    if told is None or over_one is None:
        return _row("two workers against one", "no figures")
    times = over_one["requests_per_s"][load]
    return _row(
        f"two workers against one, {load} connections, the load generator on the same {scenario['cores']} cores",
        f"{_number(times)} times the requests/s; of {scenario['cores']} cores the workers had "
        f"{_number(told['server_cores'])} and the generator {_number(told['generator_cores'])}; "
        f"bound by: {', '.join(told['bound_by'])}",
    )


def _dear(scenario: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    load = result["settings"]["dear_connections"]
    ours = scenario["summary"].get(CAUSEWAY.name, {}).get(str(load), {}).get("rows_per_s")
    return _row(
        f"a forest that takes {_number(scenario['engine_ms_for_one_row'])} ms for one row, {load} connections",
        f"{_number(ours)} rows/s, {_number(scenario['over_best'])} of the engine in process at its best batch size "
        f"({scenario['best_batch']}), {_number(scenario['over_best_that_fits'])} at the best that {load} callers fill "
        f"({scenario['best_batch_that_fits']})",
    )


def _overload(scenario: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    told, deadline = scenario["summary"], _number(scenario["deadline_ms"])
    return _row(
        f"the same at {_number(result['settings']['overload_factor'])} times its own capacity, open loop, "
        f"deadline {deadline} ms",
        f"goodput {_number(told['goodput_over_capacity'])} of capacity; p99 of the accepted "
        f"{_number(told['accepted_p99_ms'])} ms, of refusals {_number(told['refused_p99_ms'])} ms, of the expired "
        f"{_number(told['expired_p99_ms'])} ms; memory {_number(told['memory_growth_mb'])} MB more at the end",
    )


def _hang_up(scenario: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    told = scenario["summary"]
    growth = told["growth_over_rounds"]
    return _row(
        f"{_number(result['settings']['hang_up_clients'])} clients of it that send and hang up",
        f"cost {_number(told['hung_up_over_waited'])} of the CPU of answering as many; the next caller waited "
        f"{_number(told['next_answer_ms'])} ms; from the first to the last round "
        f"{_number(growth.get('open_files'))} more open files, {_number(growth.get('resident_mb'))} MB more",
    )


_ROWS = {
    "thousand_rows": _thousand_rows,
    "two_workers": _two_workers,
    "dear": _dear,
    "overload": _overload,
    "hang_up": _hang_up,
}


def _caption(result: Mapping[str, Any]) -> str:
    plan, versions = result["settings"], result["versions"]
    caveats = [scenario["caveats"] for scenario in result["scenarios"].values() if "caveats" in scenario]
    runs, bound, disturbed = (
        sum(len(told) if isinstance(told := each[name], list) else told for each in caveats)
        for name in ("runs", "bound_by_generator", "disturbed")
    )
    others = max((each["others_cores_median"] or 0.0 for each in caveats), default=0.0)
    return (
        f"Medians of {plan['rounds']} interleaved rounds of {plan['run_s']} s, after {plan['warm_up_s']} s of warm-up "
        f"that are not counted; ratios are medians of the ratios within a round. {result['cpu']}, {result['cores']} "
        f"cores, Python {versions['python']}, BentoML {versions['bentoml']}, ONNX Runtime {versions['onnxruntime']}, "
        f"wrk {versions['wrk']}, commit {result['commit'][:12]}{'-dirty' * result['commit'].endswith('-dirty')}, seed "
        f"{result['seed']}. In {bound} of {runs} runs the load generator, not the server, had no time left; "
        f"in {disturbed} other processes took more than a tenth of a core (median at most {_number(others)} cores); "
        f"these count only where there is no other.\n"
    )


def _unanswered(told: Mapping[str, Any]) -> str:
    """In brackets, at which loads how many requests got no 200."""
    shares = {load: each["unanswered_share"] for load, each in told.items()}
    some = [f"{share:.0%} at {load}" for load, share in shares.items() if share is None or share > MUCH]
    return f" (not answered with 200: {', '.join(some)})" if some else ""


def _is_in(failure: Mapping[str, Any], scenario: str) -> bool:
    return bool(failure["scenario"] == scenario)


def _row(what: str, figure: str) -> str:
    return f"| {what} | {figure} |\n"


def _each(values: Iterable[float | None]) -> str:
    return " / ".join(_number(value) for value in values)


def _number(value: float | None) -> str:
    """Two to three significant digits, thousands apart; a dash for None."""
    if value is None:
        return "-"
    digits = f"{value:.3g}" if abs(value) >= 10 else f"{value:.2g}"
    return f"{float(digits):,.10g}".replace(",", " ")


def _one_line(text: str) -> str:
    return text.strip().splitlines()[-1][:120].replace("|", "\\|")


def main() -> int:
    """Runs the command line; the exit code is 1 where there is no result, or README.md has no place for it."""
    try:
        result = json.loads(RESULTS.read_text())
        print(markdown(result))
        if "--write" in sys.argv[1:]:
            write(result)
    except (FileNotFoundError, ValueError) as exc:
        print(exc, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
