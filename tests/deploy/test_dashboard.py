"""The dashboard is what its definitions make of it, and it cannot ask for what does not exist."""

import json
import subprocess
import sys

import pytest

from causeway.monitoring.definitions import definitions
from tests.conftest import ROOT
from tools import dashboard


def test_the_dashboard_is_what_the_definitions_make_of_it() -> None:
    command = [sys.executable, "tools/dashboard.py", "--check"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_metric_is_on_the_dashboard() -> None:
    text = json.dumps(dashboard.dashboard())
    assert [name for name in definitions() if name not in text] == []


def test_a_metric_or_a_label_that_does_not_exist_is_not_asked_for() -> None:
    with pytest.raises(KeyError, match="causeway_request_total"):
        dashboard.rate("causeway_request_total")
    with pytest.raises(KeyError, match="has no label code"):
        dashboard.rate("causeway_requests_total", "code")
    with pytest.raises(KeyError, match="has no label code"):
        dashboard.rate("causeway_requests_total", matching='endpoint="/predict", code!="200"')


def test_panels_lie_side_by_side_and_below_each_other() -> None:
    taken = set()
    for panel in dashboard.dashboard()["panels"]:
        x, y, width, height = (panel["gridPos"][key] for key in "xywh")
        cells = {(column, line) for column in range(x, x + width) for line in range(y, y + height)}
        assert x + width <= dashboard.WIDTH
        assert not cells & taken
        taken |= cells
