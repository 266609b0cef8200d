"""`causeway quality` on a prediction log: what labels say, what scores let expect, and what is not known."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from sqlalchemy import insert

from causeway.commands.quality import quality
from causeway.monitoring.database import connect, labels, predictions, sqlite_url
from causeway.monitoring.place import DATABASE
from causeway.operations import Operations
from causeway.quality.estimate import CalibrationMap
from causeway.quality.measures import average_precision
from causeway.quality.working import Working
from causeway.settings import Settings
from tests import tiny

N = 400
DAY_S = 86_400
RNG = np.random.default_rng(0)
SCORES = RNG.beta(0.5, 2, N)
LABELS = (RNG.random(N) < SCORES).astype(np.int8)
WORKING = Working(0.3, CalibrationMap([0.0, 1.0], [[0.0, 1.0]], 0.2))


@pytest.fixture(scope="module")
def tag() -> str:
    """A version that training left its threshold and its calibration map with."""
    return tiny.saved(evaluation_json=msgspec.json.encode(WORKING)).tag


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A prediction log without a row, beside the state file."""
    made = sqlite_url(tmp_path / DATABASE)
    connect(made).dispose()
    return made


def answered(url: str, tag: str, *, n_labelled: int, ago_s: float) -> None:
    """A version's answers with one row each, so long ago; the first of them have labels."""
    now = time.time()
    engine = connect(url)
    with engine.begin() as connection:
        for i in range(N):
            request = {"request_id": f"{tag}-{ago_s}-{i}", "time": now - ago_s}
            connection.execute(
                insert(predictions).values(
                    **request,
                    model_version=tag,
                    variant="champion",
                    routing_key=f"card-{i // 2}",
                    n_rows=1,
                    features="[[0.0, 0.0]]",
                    predictions=json.dumps([[SCORES[i]]]),
                    **dict.fromkeys(("decode_ms", "queue_ms", "compute_ms", "latency_ms"), 0.1),
                )
            )
            if i < n_labelled:
                connection.execute(
                    insert(labels).values(request_id=request["request_id"], labels=f"[{LABELS[i]}]", time=now)
                )
    engine.dispose()


def says(url: str, *arguments: str) -> str:
    state_file = Path(url.removeprefix("sqlite:///")).with_name("state.json")
    result = CliRunner().invoke(quality, arguments, obj=Operations(Settings(state_file=str(state_file))))
    assert result.exit_code == 0, result.output
    return result.output


def told(url: str, *arguments: str) -> Any:
    return json.loads(says(url, *arguments, "--json"))


def test_labelled_rows_are_measured_and_the_others_estimated(url: str, tag: str) -> None:
    answered(url, tag, n_labelled=300, ago_s=60)
    (each,) = told(url)
    assert (each["model_version"], each["threshold"], each["is_default_threshold"]) == (tag, 0.3, False)
    assert each["quality"]["rows"] == 300
    assert each["quality"]["positives"] == LABELS[:300].sum()
    assert each["quality"]["average_precision"] == pytest.approx(average_precision(LABELS[:300], SCORES[:300]))
    assert each["quality"]["card_precision_at_100"] is not None
    assert each["unlabelled"] == each["estimate"]["rows"] == 100
    low, high = (each["estimate"]["average_precision"][bound] for bound in ("low", "high"))
    assert 0.3 < low < each["estimate"]["average_precision"]["value"] < high < 1


def test_the_table_shows_both_beside_each_other(url: str, tag: str) -> None:
    answered(url, tag, n_labelled=300, ago_s=60)
    (each,), text = told(url), says(url)
    assert f"{tag}, " in text
    assert "Working threshold 0.3\n" in text
    assert f"Rows with labels: 300, positive: {LABELS[:300].sum()}\n" in text
    (line,) = re.findall(r"^AP .*$", text, re.MULTILINE)
    by_labels, between, estimated, _ = re.split(r"\s{2,}", line.strip())[1:]
    assert by_labels == f"{each['quality']['average_precision']:.4f}"
    assert between == "{:.4f} to {:.4f}".format(*each["quality"]["intervals"]["average_precision"])
    assert estimated == f"{each['estimate']['average_precision']['value']:.4f}"


def test_each_day_is_told_on_its_own(url: str, tag: str) -> None:
    answered(url, tag, n_labelled=N, ago_s=2 * DAY_S)
    answered(url, tag, n_labelled=0, ago_s=0)
    whole, days = told(url), told(url, "--by", "day")
    assert [each["quality"]["rows"] + each["unlabelled"] for each in whole] == [2 * N]
    assert [(each["quality"]["rows"], each["unlabelled"]) for each in days] == [(N, 0), (0, N)]
    assert days[0]["until"].endswith("T00:00:00+00:00")
    assert [each["unlabelled"] for each in told(url, "--since", "1d")] == [N]


def test_a_version_that_left_the_store_has_the_default_threshold_and_no_estimate(url: str, tag: str) -> None:
    answered(url, tag, n_labelled=0, ago_s=60)
    answered(url, "tiny:gone", n_labelled=10, ago_s=60)
    ours = {each["model_version"]: each for each in told(url)}
    assert (ours["tiny:gone"]["threshold"], ours["tiny:gone"]["is_default_threshold"]) == (0.5, True)
    assert ours["tiny:gone"]["estimate"] is None
    assert ours[tag]["quality"]["average_precision"] is None
    text = says(url)
    assert "Working threshold 0.5, the default: training chose none\n" in text
    assert f"Rows without labels: {N - 10} (this version was saved without what an estimate needs)\n" in text


def test_where_nothing_was_answered_a_sentence_says_so(url: str) -> None:
    assert told(url) == []
    assert says(url).startswith("Nothing was answered since ")
