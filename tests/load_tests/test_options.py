"""How the command line reads its texts, and refuses those that mean nothing, in a sentence."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from load_tests import options
from load_tests.__main__ import main


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("2h", 7200), ("1.5m", 90), ("500 ms", 0.5), ("0s", 0)])
def test_durations_have_units(text: str, seconds: float) -> None:
    assert options.seconds(text) == seconds


def test_rates_are_listed_or_searched_for() -> None:
    assert options.rates("100, 200.5,4e2") == (100, 200.5, 400)
    assert options.rates("auto") is None


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ("--rates 100,fast", "'fast' is no rate in requests a second"),
        ("--rates 100,-5", "'-5' is no rate"),
        ("--rates nan", "'nan' is no rate"),
        ("--stage 10", "'10' is no duration such as 10s"),
        ("--stage 0.1s", "too short to measure anything in"),
        ("--p99 fast", "'fast' is no duration such as 100ms"),
        ("--errors 101%", "'101%' is no share such as 0.1%"),
        ("--mix one=1,two=2", "'two=2' in 'one=1,two=2' is no share"),
        ("--set CAUSEWAY_THREAD=2", "'CAUSEWAY_THREAD=2' is no setting of the server"),
        ("--set CAUSEWAY_THREADS=none", "CAUSEWAY_THREADS='none': must be a whole number"),
        ("--set CAUSEWAY_WORKERS=2", "CAUSEWAY_WORKERS is for --workers"),
        ("--url https://localhost", "https"),
        ("--url http://127.0.0.1:1 --dear", "are for a server that is started here"),
        ("--rate 100", "--rate is for --shape soak or spike"),
        ("--for 2h", "--for is for --shape soak or spike"),
        ("--shape soak", "--shape soak needs --rate"),
        ("--shape soak --rate 10 --factor 3", "--factor is for --shape spike"),
        ("--shape spike --rate 10 --rates 1,2", "--rates is for --shape ramp"),
        ("--compare", "needs two result.json or more"),
        ("README.md", "files are for --compare"),
        ("--compare README.md pyproject.toml", "README.md is no result of a load test"),
    ],
)
def test_what_means_nothing_is_refused_in_a_sentence(arguments: str, why: str, tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, [*arguments.split(), "--out", str(tmp_path / "out")], terminal_width=300)
    assert refused.exit_code == 2, refused.output
    assert why in " ".join(refused.output.split())


def test_a_server_that_nothing_listens_for_is_named(tmp_path: Path) -> None:
    refused = CliRunner().invoke(main, ["--url", "http://127.0.0.1:1", "--out", str(tmp_path)])
    assert refused.exit_code == 1
    assert "nothing was measured: nothing listens at http://127.0.0.1:1." in refused.output
