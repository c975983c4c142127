"""Rules are what Prometheus takes, fire when they should and only then, and lead to what to do."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.files import ROOT, RULE_TESTS, RULES, alerts, headings

ALERTS = {alert["alert"]: alert for alert in alerts()}


def promtool(*arguments: object) -> None:
    if shutil.which("promtool") is None:
        pytest.fail("promtool is missing; run tests/ensure_packages.sh")
    done = subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.schema
def test_the_example_is_valid_and_reads_all_rules() -> None:
    promtool("check", "config", ROOT / "deploy" / "prometheus" / "prometheus.yml")
    promtool("check", "rules", *RULES)
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    [files] = config["rule_files"]
    assert sorted((ROOT / "deploy" / "prometheus").glob(files)) == RULES


@pytest.mark.schema
def test_composes_is_valid() -> None:
    # Its rules are where the container has them.
    promtool("check", "config", "--syntax-only", ROOT / "deploy" / "compose" / "prometheus.yml")


@pytest.mark.slow
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_alerts_fire_when_they_should(path: Path) -> None:
    promtool("test", "rules", path)


def test_every_alert_is_tested_firing_and_quiet() -> None:
    expected: list[tuple[str, bool]] = []
    for path in RULE_TESTS:
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["tests"]:
            for case in group.get("promql_expr_test", ()):
                name = case["expr"].split('"')[1]
                assert case["expr"] == f'ALERTS{{alertname="{name}",alertstate="firing"}}'
                expected.append((name, bool(case["exp_samples"])))
    assert set(expected) == {(name, fires) for name in ALERTS for fires in (True, False)}


@pytest.mark.parametrize("alert", ALERTS.values(), ids=list(ALERTS))
def test_every_alert_leads_to_its_section(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("critical", "warning")
    annotations = alert["annotations"]
    assert set(annotations) == {"summary", "description", "runbook_url"}
    assert annotations["summary"]
    assert annotations["description"].endswith(".")
    page, _, section = annotations["runbook_url"].partition("#")
    assert page == "docs/runbook.md"
    assert section == alert["alert"].lower()
    assert section in headings("runbook.md")
