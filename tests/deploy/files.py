"""What there is to be checked, found by its place: whatever is added is checked without a change here."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DASHBOARDS = sorted((ROOT / "deploy" / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((ROOT / "deploy" / "prometheus" / "rules").glob("*.yml"))
RULE_TESTS = sorted((ROOT / "tests" / "deploy" / "rules").glob("*.yml"))


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    """All that draw something, also inside rows that are folded."""
    found = []
    for panel in dashboard["panels"]:
        found += panel.get("panels") or []
        if panel["type"] != "row":
            found.append(panel)
    return found


def rules() -> list[dict[str, Any]]:
    """Recording and alerting rules, in their order."""
    return [
        rule
        for path in RULES
        for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]
        for rule in group["rules"]
    ]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def headings(page: str) -> set[str]:
    """The anchors of a page of docs/."""
    titles = re.findall(r"^#+ (.*)$", (ROOT / "docs" / page).read_text(encoding="utf-8"), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}
