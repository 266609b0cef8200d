"""The alert rules, as Prometheus' own tools judge them."""

import subprocess

import pytest
import yaml

from tests.deploy.prometheus import FOLDER, program

RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yml").read_text())["groups"] for rule in group["rules"]]
ALERTS = [rule for rule in RULES if "alert" in rule]


@pytest.mark.parametrize("command", [("check", "config", "prometheus.yml"), ("test", "rules", "rules_test.yml")])
def test_promtool_is_content_with_the_rules_and_their_tests(command: tuple[str, ...]) -> None:
    result = subprocess.run([program("promtool"), *command], cwd=FOLDER, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_each_alert_is_tested_and_says_what_is_to_be_done_about_it(alert: dict) -> None:
    assert f'alertname="{alert["alert"]}"' in (FOLDER / "rules_test.yml").read_text()
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"].keys() == {"summary", "description", "runbook"}
    assert all(text.endswith(".") for text in alert["annotations"].values())
