"""The shipped alerts and dashboard: their own tests pass, their metrics exist, and each alert has a runbook."""

import json
import re
import subprocess
from pathlib import Path

import yaml
from tests.support.prometheus import ALERTS, prometheus_tool
from tests.unit.service.test_metrics import METRICS

ROOT = ALERTS.parents[2]
DASHBOARD = ROOT / "deploy/grafana/nightshift.json"
RUNBOOKS = ROOT / "docs/runbooks"


def _rules() -> list[dict]:
    [group] = yaml.safe_load(ALERTS.read_text())["groups"]
    return group["rules"]


def _metrics_of(expression: str) -> set[str]:
    found = set(re.findall(r"\bnightshift_[a-z_]+\b", expression))
    return {re.sub(r"_(bucket|sum|count)$", "", name) for name in found}


def test_the_rules_pass_their_own_tests():
    command = [prometheus_tool("promtool"), "test", "rules", "alerts_test.yaml"]
    ran = subprocess.run(command, cwd=ALERTS.parent, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_alerts_and_dashboard_ask_only_for_metrics_that_exist():
    panels = json.loads(DASHBOARD.read_text())["panels"]
    shown = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    asked = set().union(*map(_metrics_of, [*shown, *(rule["expr"] for rule in _rules())]))
    assert asked <= METRICS.keys()
    assert len(shown) > 30


def test_the_dashboards_panels_do_not_overlap():
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    taken = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(taken) == len(set(taken))


def test_each_alert_has_a_runbook_that_says_what_to_do():
    pages = {f"/runbooks/{page.stem}/": page for page in RUNBOOKS.glob("*.md") if page.stem != "index"}
    assert {rule["annotations"]["runbook_url"] for rule in _rules()} == set(pages)
    for rule in _rules():
        text = pages[rule["annotations"]["runbook_url"]].read_text()
        assert text.startswith(f"# {rule['alert']}\n")
        assert "**Effect.**" in text
        assert "**Do.**" in text
    index = Path(RUNBOOKS / "index.md").read_text()
    assert all(rule["alert"] in index for rule in _rules())
