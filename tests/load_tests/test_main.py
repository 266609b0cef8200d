"""The command line against a served Causeway, and what it keeps when it is cut short."""

import os
import signal
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import pytest
from click.testing import CliRunner

from load_tests.__main__ import main
from load_tests.result import Result
from tests.conftest import ROOT, Server, answers, environment
from tests.load_tests import stages

SHORT = ("--stage", "0.5s", "--warm-up", "0.2s")
GENEROUS = ("--p99", "20s", "--errors", "100%")
"""What a busy machine that runs tests keeps to as well."""


def test_a_running_server_is_loaded_and_reported_on(server: Server, tmp_path: Path) -> None:
    asked = ["--url", f"{server.url}/", "--rates", "50,150", "--repeats", "2", "--deadline", "900ms", *SHORT, *GENEROUS]
    done = CliRunner().invoke(main, [*asked, "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert {file.name for file in tmp_path.iterdir()} == {"report.html", "report.png", "stages.csv", "result.json"}
    result = Result.load(tmp_path / "result.json")
    assert [[stage.rate for stage in repeat.stages] for repeat in result.repeats] == [[50, 150]] * 2
    assert all(stage.right == stage.due > 0 for repeat in result.repeats for stage in repeat.stages)
    assert result.says.startswith("Sustains at least")
    assert result.options.url == result.name == server.url
    assert result.options.model is None
    assert result.options.deadline_ms == 900
    assert result.circumstances["server_cores"] is None
    assert done.output.count("150/s: goodput") == 2


def test_a_server_is_started_and_ended_with_what_it_did_until_an_interrupt(home: Path, tmp_path: Path) -> None:
    """In a process of its own, as an interrupt is for a process, and so is BENTOML_HOME."""
    asked = ["--rates", "50,60", "--arrivals", "constant", "--set", "CAUSEWAY_CACHE_BYTES=1000000", "--name", "cached"]
    command = [sys.executable, "-m", "load_tests", *asked, *SHORT, *GENEROUS, "--out", str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=environment(home), stdout=subprocess.PIPE, text=True) as testing:
        assert testing.stdout is not None
        said = list(takewhile(lambda line: not line.startswith("50/s"), testing.stdout))
        testing.send_signal(signal.SIGINT)  # as Ctrl-C does
        said += testing.stdout
    assert testing.returncode == 130, said
    result = Result.load(tmp_path / "result.json")
    (repeat,) = result.repeats
    assert [(stage.rate, stage.due) for stage in repeat.stages] == [(50, 25)]
    assert result.circumstances["ended_early"] == "it was interrupted"
    assert result.says.startswith("Ended early (it was interrupted); until then: ")
    assert result.circumstances["server_cores"] == [min(os.sched_getaffinity(0))]
    assert result.name == "cached"
    assert (result.options.model or "").startswith("fraud:")
    assert result.options.settings == {"CAUSEWAY_CACHE_BYTES": "1000000"}
    assert "--name cached" in result.options.command
    assert "version_loaded" in (tmp_path / "server.log").read_text()
    assert not answers(f"{result.options.url}/livez")


@pytest.mark.parametrize("inside", ["", "new"])
def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_is_measured(inside: str) -> None:
    refused = CliRunner().invoke(main, ["--rates", "50", *SHORT, "--out", str(Path("/proc", inside))])
    assert refused.exit_code == 2
    assert "nothing can be written to /proc" in refused.output


def test_results_are_compared_without_running_anything(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.json" for name in ("one", "two")]
    for file in files:
        stages.result(file.stem).save(file)
    compared = CliRunner().invoke(main, ["--compare", *map(str, files), "--out", str(tmp_path / "both")])
    assert compared.exit_code == 0, compared.output
    assert (tmp_path / "both/comparison.html").exists()
