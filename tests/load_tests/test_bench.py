"""The benchmark as an instrument: what it checks, what it tells, and that it runs; never how fast anything is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from causeway.operations import Done
from causeway.runtime import MODEL_FILE, open_runtime
from causeway.state import State, now
from causeway.state_file import Change
from load_tests.bench import checks, report, summary, work
from load_tests.bench.bench import Bench
from load_tests.bench.checks import first_fault
from load_tests.bench.goals import Goal
from load_tests.bench.operator import Operator, after, operated
from load_tests.bench.peers import CAUSEWAY, Peer
from load_tests.bench.plan import QUICK
from load_tests.bench.result import result
from load_tests.bench.run import Run, Usage
from load_tests.bench.scenarios import NAMES, livez, one_row, shadow, two_workers
from load_tests.bench.work import Model
from load_tests.bench.wrk import Load
from load_tests.forest import POISON, Forest
from load_tests.open_loop.client import Answer
from tests.conftest import ROOT, environment

needs_wrk = pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed: apt-get install wrk")

SUMS = """
import asyncio, json

waiting = []

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    sums = [sum(row) for row in json.loads(body or '{"features": []}')["features"]]
    status, sums = await answer(sums)
    body = json.dumps({"predictions": sums}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
"""
HONEST = "async def answer(sums): return 200, sums"
OFF_BY_A_LITTLE = "async def answer(sums): return 200, [value + 1e-4 for value in sums]"
REFUSES = "async def answer(sums): return 500, sums"
MIXES_UP_CALLERS = """
async def answer(sums):
    waiting.append(sums)
    await asyncio.sleep(0.01)
    return 200, waiting.pop()
"""
CANNOT_START = "raise RuntimeError('no model here')"


@pytest.fixture
def model(tmp_path: Path) -> Model:
    """A model that adds up 15 features."""
    X = np.random.default_rng(0).integers(0, 1000, (200, 15)).astype(np.float32)
    return Model("sums:latest", tmp_path, X, lambda rows: rows.sum(axis=1).astype(np.float64), {})


def peer(folder: Path, name: str, answer: str) -> Peer:
    """A contestant that serves sums, right or wrong."""
    Path(folder, f"{name}.py").write_text(SUMS + answer)
    options = ("--app-dir", str(folder), "--port", "{port}")
    return Peer(name, f"sums, {name}", (sys.executable, "-m", "uvicorn", f"{name}:app", *options))


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (OFF_BY_A_LITTLE, "is off by 0.0001"),
        (REFUSES, "is 500"),
        (MIXES_UP_CALLERS, "is off by"),
        (CANNOT_START, "no model here"),
    ],
)
def test_a_contestant_that_answers_wrongly_is_reported_and_left_out(
    tmp_path: Path, model: Model, wrong: str, why: str
) -> None:
    honest, liar = peer(tmp_path, "honest", HONEST), peer(tmp_path, "liar", wrong)
    with Bench(QUICK, tmp_path, (honest, liar), say=print) as bench:
        assert [server.peer.name for server in bench.serve(bench.peers, model, model.work(1))] == ["honest"]
    (failure,) = bench.failures
    assert failure.contestant == "liar"
    assert why in failure.why


@needs_wrk
def test_a_wrong_answer_costs_a_contestant_its_figures_and_the_table_says_so(tmp_path: Path, model: Model) -> None:
    peers = peer(tmp_path, "honest", HONEST), peer(tmp_path, "liar", OFF_BY_A_LITTLE)
    with Bench(QUICK, tmp_path, peers, say=print) as bench:
        bench.scenario, bench.reference = "one_row", model
        told = result(bench, {"one_row": one_row.run(bench)}, at="now", seconds=1, wrk_version="4")
    runs = told["scenarios"]["one_row"]["runs"]
    assert {run["contestant"] for run in runs} == {"honest"}
    assert all(run["load"]["answers_200"] > 0 == run["load"]["answers_other"] for run in runs)
    assert [failure["contestant"] for failure in told["failures"]] == ["liar"]
    assert "| sums, liar | no figures: answer 1 of" in report.markdown(told)


def test_a_contestant_whose_packages_are_missing_is_skipped_by_name(tmp_path: Path, model: Model) -> None:
    absent = replace(peer(tmp_path, "absent", HONEST), needs=("no-such-distribution",))
    with Bench(QUICK, tmp_path, (absent,), say=print) as bench:
        assert bench.serve(bench.peers, model, model.work(1)) == []
    assert "no-such-distribution" in bench.skipped["absent"]
    assert bench.failures == []


@pytest.mark.parametrize(
    "answer",
    [
        Answer(503, b'{"predictions": [1.0, 2.0]}', 0.0),
        Answer(0, b"the connection was lost", 0.0),
        Answer(200, b'{"predictions": [1.0]}', 0.0),
        Answer(200, b'{"predictions": [2.0, 1.0]}', 0.0),
        Answer(200, b'{"predictions": [1.0, null]}', 0.0),
        Answer(200, b'{"predictions": [1.0, NaN]}', 0.0),
        Answer(200, b'{"error": "none"}', 0.0),
        Answer(200, b"not JSON", 0.0),
    ],
)
def test_anything_but_the_right_predictions_is_a_fault(answer: Answer) -> None:
    assert first_fault([answer], [np.array([1.0, 2.0])])


@pytest.mark.parametrize("body", [b'{"predictions": [[1.0], [2.000001]]}', b"[1.0, 2.0]"])
def test_predictions_are_right_in_either_form(body: bytes) -> None:
    assert first_fault([Answer(200, body, 0.0)], [np.array([1.0, 2.0])]) is None


OF_VERSIONS = {"sums:a": np.array([1.0]), "sums:b": np.array([2.0])}


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (Answer(200, b'{"predictions": [[1.0]], "model_version": "sums:a"}', 0.0), None),
        (Answer(200, b'{"predictions": [[2.0]], "model_version": "sums:b"}', 0.0), None),
        (Answer(200, b'{"predictions": [[2.0]], "model_version": "sums:a"}', 0.0), "is off by 1"),
        (Answer(200, b'{"predictions": [[1.0]], "model_version": "sums:c"}', 0.0), "sums:c, which was never deployed"),
        (Answer(200, b'{"predictions": [[1.0]]}', 0.0), "none, which was never deployed"),
        (Answer(200, b'{"model_version": "sums:a"}', 0.0), "has no predictions"),
        (Answer(503, b'{"model_version": "sums:a"}', 0.0), "is 503"),
        (Answer(0, b"the connection was lost", 0.0), "is none: the connection was lost"),
    ],
)
def test_an_answer_is_right_by_the_version_that_it_names(answer: Answer, why: str | None) -> None:
    fault = checks.fault_of_named(answer, OF_VERSIONS)
    assert fault is None if why is None else why in (fault or "")


def test_rows_for_which_versions_predict_nearly_the_same_show_nothing() -> None:
    assert checks.are_apart(OF_VERSIONS.values())
    assert not checks.are_apart([np.array([1.0]), np.array([2.0]), np.array([1.0 + checks.TOLERANCE])])


def swap(action: str, workers: int, seconds: float) -> Done:
    """A swap that took `seconds` until `workers` served it."""
    return Done(Change(now(), "a test", action, "", State.of("sums:a"), State.of("sums:b")), workers, seconds)


def test_the_longest_swap_is_told_only_where_every_worker_had_a_say(tmp_path: Path, model: Model) -> None:
    two = operated(replace(CAUSEWAY, workers=2), "two", tmp_path)
    operator = Operator(two, [model])
    assert operator.longest_s() is None
    operator.done = [swap("promote sums:b", 2, 0.1), swap("promote sums:b", 2, 0.3), swap("rollback", 1, 0.2)]
    assert operator.longest_s("promote") == 0.3
    assert operator.longest_s("rollback") is None
    assert operator.longest_s() is None


def test_a_change_that_fails_beside_the_load_fails_the_scenario() -> None:
    with pytest.raises(ZeroDivisionError), after(0.0, lambda: 1 / 0):
        pass


def test_requests_without_a_200_count_as_lost_and_as_slow_as_can_be(tmp_path: Path, model: Model) -> None:
    asked_at_first = 1 + checks.REPEATS * work.N_SMALL
    tires = f"""
async def answer(sums):
    waiting.append(sums)
    return 200 if len(waiting) <= {asked_at_first} + 3 else 503, sums
"""
    with Bench(QUICK, tmp_path, say=print) as bench:
        (server,) = bench.serve((peer(tmp_path, "tires", tires),), model, model.work(1))
        told = shadow.moderate(bench, server, model.work(1), np.arange(0.0, 0.2, 0.02), is_shadowed=True)
    assert told.unanswered == 7
    assert told.p50_ms == told.p99_ms == np.inf


def usage(server: float, generator: float, *, are_apart: bool = True, cpu: float = 0.0) -> Usage:
    """Usage with these shares of the cores busy."""
    return Usage(cpu, 0.0, 0.0, 0.0, server, generator, are_apart=are_apart)


@pytest.mark.parametrize(
    ("usage", "workers", "bound_by"),
    [
        (usage(1.0, 0.6), 1, "server"),
        (usage(0.7, 0.99), 1, "generator"),
        (usage(0.99, 0.99), 1, "server and generator"),
        (usage(0.5, 0.5), 1, "none"),
        (usage(0.98, 0.98, are_apart=False, cpu=1.2), 2, "machine"),
        (usage(0.7, 0.7, are_apart=False, cpu=0.99), 1, "server"),
        (usage(0.7, 0.7, are_apart=False, cpu=0.99), 2, "none"),
    ],
)
def test_a_run_says_what_bounded_it(usage: Usage, workers: int, bound_by: str) -> None:
    assert usage.bound_by(workers) == bound_by


def run(contestant: str, number: int, requests_per_s: float, *, is_disturbed: bool = False) -> Run:
    """A run of a second with this many answers."""
    latencies = dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "p999_ms", "max_ms"), 1.0)
    load = Load(1.0, int(requests_per_s), answers_other=0, broken=0, timed_out=0, **latencies, generator_cpu_s=0.0)
    return Run(contestant, number, 16, 1, load, None, 0.0, usage(1.0, 0.0), "server", is_disturbed, is_settled=True)


def test_a_ratio_is_taken_within_a_round_because_the_machine_changes_between_them() -> None:
    slow_then_fast = [run("a", 1, 10), run("b", 1, 20), run("a", 2, 1_000), run("b", 2, 2_000), run("a", 3, 5)]
    ratios = summary.ratios(slow_then_fast, "a")["b"]
    assert ratios["requests_per_s"] == {"16": {"median": 0.5, "least": 0.5, "most": 0.5}}
    assert ratios["server_cpu_us"] == {"16": None}


def test_disturbed_runs_count_only_where_too_few_others_do() -> None:
    disturbed = [run("a", 1, 1, is_disturbed=True), run("b", 1, 1), run("a", 2, 1), run("b", 2, 9, is_disturbed=True)]
    calm = [run(name, number, rate) for number in (3, 4, 5) for name, rate in (("a", 50), ("b", 100))]
    assert summary.ratio(disturbed + calm, "requests_per_s", "a", "b") == {"median": 0.5, "least": 0.5, "most": 0.5}
    assert summary.ratio(disturbed + calm[2:], "requests_per_s", "a", "b") == {"median": 0.5, "least": 1 / 9, "most": 1}
    rates = dict.fromkeys(range(1, 6), 100.0)
    assert (summary.over_engine(disturbed[:1] + calm, rates)["a"] or {})["least"] == 0.5
    assert (summary.over_engine(disturbed[:1] + calm[2:], rates)["a"] or {})["least"] == 0.01


@pytest.mark.parametrize(
    ("goal", "value", "is_met"),
    [
        (Goal("most", "here.x", at_least=0.7), 0.7, True),
        (Goal("most", "here.x", at_least=0.7), 0.69, False),
        (Goal("least", "here.x", at_most=0), 0, True),
        (Goal("least", "here.x", at_most=0), {"median": 0.1, "least": 0.0, "most": 1.0}, False),
        (Goal("least", "here.x", at_most=0), None, None),
        (Goal("told", "here.x"), 3, None),
        (Goal("elsewhere", "there.x", at_most=0), 3, None),
    ],
)
def test_a_goal_is_met_by_the_median_and_by_nothing_that_was_not_measured(
    goal: Goal, value: object, is_met: bool | None
) -> None:
    assert goal.seen({"here": {"x": value}})["is_met"] is is_met


def test_the_dear_model_gives_to_the_bit_what_its_trees_add_up_to_and_fails_with_a_poisoned_row(tmp_path: Path) -> None:
    X = np.random.default_rng(0).random((64, 15)).astype(np.float32)
    forest = Forest.draw(1_000, X, seed=0)
    (tmp_path / MODEL_FILE).write_bytes(forest.to_onnx(X.shape[1]))
    runtime = open_runtime(tmp_path)
    assert np.array_equal(runtime.run(X)[:, 0], forest.predict(X))
    assert len(np.unique(forest.predict(X))) == len(X)
    X[7, 0] = POISON
    with pytest.raises(Exception, match="GatherElements"):
        runtime.run(X)


@needs_wrk
def test_two_workers_are_measured_beside_one(tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ONE", "TWO"):
        monkeypatch.setattr(two_workers, name, replace(peer(tmp_path, name.lower(), HONEST), is_pinned=False))
    with Bench(QUICK, tmp_path, say=print) as bench:
        bench.reference = model
        told = two_workers.run(bench)
    assert told["ratios"]["one"]["requests_per_s"]["64"]["median"] > 0


def test_livez_is_asked_beside_a_large_body_and_alone(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(livez, "LIBERAL", peer(tmp_path, "honest", HONEST))
    with Bench(QUICK, tmp_path, say=print) as bench:
        bench.reference = model
        told = livez.run(bench)
    (round_,) = told["rounds"]
    assert told["body_bytes"] > QUICK.large_body_bytes
    assert round_.body_status == 200
    assert min(round_.beside.n, round_.alone.n) > 0


@needs_wrk
def test_a_quick_run_shows_its_scenarios_and_tells_their_circumstances(home: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    trained = shutil.copytree(home, tmp_path / "home")
    names = [name for name in NAMES if name not in ("two_workers", "livez")]  # they have servers of their own
    options = ["--quick", "--only", ",".join(names), "--peers", "ceiling,causeway,fastapi_onnx"]
    options += ["--output", str(output), "--home", str(trained)]
    done = subprocess.run(
        [sys.executable, "-m", "load_tests.bench", *options],
        cwd=ROOT,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(output.read_text())
    assert told["failures"] == []
    assert {"at", "commit", "cpu", "cores", "system", "seed", "settings"} <= set(told)
    assert {"bentoml", "onnxruntime", "scikit-learn", "uvicorn", "wrk"} <= set(told["versions"])

    scenarios = told["scenarios"]
    assert list(scenarios) == names
    able = {"ceiling", "causeway", "fastapi_onnx"} - set(told["skipped"])
    for name in ("one_row", "thousand_rows"):
        assert {run["contestant"] for run in scenarios[name]["runs"]} == able
        assert all(run["load"]["answers_200"] > 0 for run in scenarios[name]["runs"])
    assert scenarios["scraped"]["scrapes"] > 0
    assert set(scenarios["overload"]["rounds"][0]["statuses"]) <= {"200", "503", "504", "none", "not_sent"}
    assert scenarios["poison"]["innocent"] == 15 * scenarios["poison"]["groups"]
    assert scenarios["hang_up"]["rounds"][0]["next_status"] == 200
    checked = scenarios["swaps"]["checked"]
    assert checked["wrong"] == scenarios["swaps"]["unanswered"] == scenarios["shadow"]["unanswered"] == 0
    assert checked["answers"] > len(checked["versions"]) == 3
    assert 0 < checked["swaps_seen"]["least"] <= checked["swaps_seen"]["most"] <= QUICK.checked_swaps
    assert scenarios["shadow"]["rows"]["moderate"]["scored"] > 0

    missing = {goal["path"] for goal in told["goals"] if goal["median"] is None}
    of_the_service = ("refused_p99_ms", "accepted_p99_ms")
    unmeasured = (".64", ".512", "bentoml_plain", *told["skipped"], *of_the_service)
    assert all(any(part in path for part in unmeasured) for path in missing), missing
    assert done.stdout.strip() == report.markdown(told).strip()

    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}old\n{report.END}after\n")
    report.write(told, readme)
    assert readme.read_text() == f"before\n{report.BEGIN}{report.markdown(told)}{report.END}after\n"


def test_tables_need_a_place_in_the_readme(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("no markers here\n")
    with pytest.raises(ValueError, match="lacks the lines"):
        report.write({}, readme)
