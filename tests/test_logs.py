"""Events are one line each."""

import json
from collections.abc import Iterator

import pytest
import structlog

from causeway import logs


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    """Leaves no logger behind that writes to this test's captured streams."""
    yield
    structlog.reset_defaults()


def test_an_event_is_one_json_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    logs.get().info("version_loaded", model_version="fraud:1", rows=3)
    event = json.loads(capsys.readouterr().err)
    assert event.pop("timestamp").endswith("Z")
    assert event == {"event": "version_loaded", "level": "info", "model_version": "fraud:1", "rows": 3}


def test_an_error_with_its_traceback_is_still_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("json")
    try:
        raise ValueError("broken")
    except ValueError as exc:
        logs.get().error("model_failed", exc_info=exc)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["exception"][0]["exc_value"] == "broken"


def test_automatic_is_json_where_nobody_watches_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("auto")
    logs.get().info("started")
    assert json.loads(capsys.readouterr().err)["event"] == "started"


def test_console_lines_are_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("console")
    logs.get().info("started", model_version="fraud:1")
    line = capsys.readouterr().err
    assert "started" in line
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_traceback_does_not_show_the_features_that_were_in_its_frames(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def score(features: list[float]) -> None:
        raise RuntimeError("broken")

    logs.configure(log_format)
    amount = 4111.0 * 3
    try:
        score([amount])
    except RuntimeError as exc:
        logs.get().error("model_failed", exc_info=exc)
    logged = capsys.readouterr().err
    assert "broken" in logged
    assert str(amount) not in logged


def test_of_repeated_faults_one_a_second_is_told_with_the_number_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 100.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    repeats = logs.Repeats()
    assert [repeats.untold("a") for _ in range(5)] == [0, None, None, None, None]
    assert repeats.untold("b") == 0
    now += logs.Repeats.EVERY_S
    assert [repeats.untold("a"), repeats.untold("a"), repeats.untold("b")] == [4, None, 0]
