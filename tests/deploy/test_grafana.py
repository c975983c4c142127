"""Dashboards are what Grafana takes, and what they are built from."""

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.build import texts
from tests.deploy.files import DASHBOARDS, ROOT, load, panels

PROVISIONING = ROOT / "deploy" / "grafana" / "provisioning"

register_default_plugins()


def test_the_files_are_current() -> None:
    for path, text in texts().items():
        assert path.read_text(encoding="utf-8") == text, "run: python -m deploy.grafana.build"


def test_there_are_dashboards_and_each_has_its_address() -> None:
    assert {path.stem for path in DASHBOARDS} >= {"service", "engine", "speculation"}
    addresses = [load(path)["uid"] for path in DASHBOARDS]
    assert len(set(addresses)) == len(addresses)


@pytest.mark.schema
@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_grafana_knows_all_that_is_in_a_dashboard(path: Path) -> None:
    """Its schema's own types drop what they do not know."""
    read = json.loads(json.dumps(Dashboard.from_json(load(path)), cls=JSONEncoder))
    assert read == load(path)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_says_what_it_is(path: Path) -> None:
    drawn = panels(load(path))
    for panel in drawn:
        assert panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["targets"], panel["title"]
        assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])
        names = [target["refId"] for target in panel["targets"]]
        assert len(set(names)) == len(names)
    for part in ("id", "title"):
        assert len({panel[part] for panel in drawn}) == len(drawn)


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_no_panel_lies_on_another(path: Path) -> None:
    places = [panel["gridPos"] for panel in load(path)["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    assert not any(overlap(one, other) for one, other in combinations(places, 2))


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        max(one[start], other[start]) < min(one[start] + one[size], other[start] + other[size])
        for start, size in (("x", "w"), ("y", "h"))
    )


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_jobs_and_instances_can_be_picked(path: Path) -> None:
    dashboard = load(path)
    variables: dict[str, Any] = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert set(variables) >= {"datasource", "job", "instance"}
    for panel in panels(dashboard):
        assert all('job=~"$job"' in target["expr"] for target in panel["targets"]), panel["title"]


def test_provisioning_leads_to_the_dashboards() -> None:
    [source] = yaml.safe_load((PROVISIONING / "datasources" / "prometheus.yml").read_text())["datasources"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    scrapes = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == scrapes["global"]["scrape_interval"]
    [provider] = yaml.safe_load((PROVISIONING / "dashboards" / "padrec.yml").read_text())["providers"]
    assert provider["type"] == "file"
