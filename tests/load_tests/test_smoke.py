"""A minute of all that a load test can do, against a served Causeway; the reports stay in build/load-test."""

import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from load_tests.result import Result
from tests.conftest import ROOT, Server, environment

KEPT = ROOT / "build/load-test"
SHAPES = {
    "ramp": "--rates 100,300,900 --stage 2s --repeats 2",
    "soak": "--shape soak --rate 100 --for 8s",
    "spike": "--shape spike --rate 100 --factor 5 --for 2s --stage 3s",
}
PASSED_OR_NOT = (0, 1)
"""Exit codes: whether a busy machine keeps to the objective is not what is tested."""


def load_test(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "load_tests", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False)


def plain(page: str) -> str:
    """Without entities, and with one kind of space."""
    return " ".join(unescape(page).split())


@pytest.mark.parametrize("shape", SHAPES)
def test_each_shape_leaves_a_report(shape: str, server: Server, home: Path) -> None:
    out = KEPT / shape
    done = load_test(home, "--url", server.url, "--name", shape, *SHAPES[shape].split(), "--out", str(out))
    assert done.returncode in PASSED_OR_NOT, done.stdout + done.stderr
    result = Result.load(out / "result.json")
    assert result.options.shape == shape
    assert all(stage.right for repeat in result.repeats for stage in repeat.stages)
    assert bool(result.checks) == bool(result.samples) == (shape != "ramp")
    assert plain(result.says) in plain((out / "report.html").read_text())
    assert (out / "report.png").read_bytes().startswith(b"\x89PNG")


def test_their_results_are_laid_over_each_other(home: Path) -> None:
    """Those of a run before count as well: this looks at the comparison."""
    results = [str(KEPT / shape / "result.json") for shape in ("ramp", "spike")]
    if not all(Path(result).exists() for result in results):
        pytest.skip("the tests above leave what is compared")
    done = load_test(home, "--compare", *results, "--out", str(KEPT / "compared"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "spike" in (KEPT / "compared/comparison.html").read_text()
