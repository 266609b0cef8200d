"""`causeway experiment`, on a state file that was changed and a prediction log that was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from causeway.commands.experiment import experiment
from causeway.monitoring.place import where
from causeway.operations import By, Operations
from causeway.settings import Settings
from tests import tiny
from tests.experiments.logged import database, simulate


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Operations:
    """A champion alone, with its state file in a folder of its own."""
    monkeypatch.setenv("CAUSEWAY_MODEL", tiny.saved().tag)
    monkeypatch.setenv("CAUSEWAY_STATE_FILE", str(tmp_path / "state.json"))
    return Operations(Settings.from_env())


def run(deployment: Operations, *arguments: str) -> Result:
    return CliRunner().invoke(experiment, arguments, obj=deployment, catch_exceptions=False)


def challenge(deployment: Operations, rates: tuple[float, float]) -> str:
    """Gives a challenger half of the requests, simulates 2 000, and returns its tag."""
    champion, challenger = deployment.status().state.champion, tiny.saved().tag
    done = deployment.challenger(challenger, 50, By("somebody"))
    url = where(Settings.from_env(), deployment.file.folder).database_url
    with database(url) as engine, engine.connect() as connection:
        tags = {"champion": champion, "challenger": challenger}
        simulate(connection, 2_000, rates=rates, tags=tags, start=done.change.time.timestamp())
    return challenger


def test_it_shows_both_and_the_verdict(deployment: Operations) -> None:
    challenger = challenge(deployment, (0.2, 0.5))
    lines = run(deployment).stdout.splitlines()
    champion, variant = (next(line for line in lines if line.startswith(role)) for role in ("champion", "challenger"))
    assert deployment.status().state.champion in champion
    assert challenger in variant
    assert any(line.startswith("Difference in conversions: ") for line in lines)
    assert any("50.00 % expected (always-valid p = " in line for line in lines)
    assert lines[-1].startswith(f"Challenger {challenger} beside champion ")
    assert "more conversions" in lines[-1]


def test_json_says_the_same(deployment: Operations) -> None:
    challenger = challenge(deployment, (0.2, 0.5))
    told = json.loads(run(deployment, "challenger", "--json").stdout)
    assert told["period"]["variant"] == challenger
    assert told["labels"]["difference"]["low"] > 0
    assert told["verdict"] == run(deployment).stdout.splitlines()[-1]


def test_an_experiment_that_has_ended_is_still_shown(deployment: Operations) -> None:
    challenge(deployment, (0.2, 0.2))
    deployment.stop("challenger", By("somebody"))
    assert json.loads(run(deployment, "--json").stdout)["period"]["ended"] is not None
