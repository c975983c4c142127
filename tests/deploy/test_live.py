"""Every query of every dashboard and rule, asked of a real Prometheus that scrapes a real service under load.

Slow: about half a minute, most of it until the first lists are written and scraped.
"""

import math
import re
from collections.abc import Iterator

import promql_parser as promql
import pytest

from tests.deploy.conftest import Monitored
from tests.deploy.files import DASHBOARDS, alerts, load, panels, rules
from tests.history.conftest import wait_until

pytestmark = pytest.mark.slow

_COMPARISONS = {"==", "!=", "<", "<=", ">", ">="}
_SETS = {"and", "or", "unless"}
_PICKED = {"job": ".+", "instance": ".+", "__rate_interval": "20s", "__range": "1m"}

# By dashboard and panel: queries that find nothing here, and why.
MAY_BE_EMPTY = {
    ("engine", "GPU busy"): "tests need no GPU",
    ("engine", "GPU memory"): "tests need no GPU",
    ("engine", "GPU memory in use"): "tests need no GPU",
}


def filled_in(query: str) -> str:
    """As Grafana asks it, with all jobs and instances picked."""
    for name, value in _PICKED.items():
        query = re.sub(rf"\${name}\b", value, query)
    assert "$" not in query
    return query


def looked_at(expression: promql.Expr) -> Iterator[str]:
    """What an alert compares, or says to be absent: all of it must exist, or the alert could never fire."""
    if isinstance(expression, promql.ParenExpr):
        yield from looked_at(expression.expr)
    elif isinstance(expression, promql.BinaryExpr) and str(expression.op) in _COMPARISONS | _SETS:
        yield from looked_at(expression.lhs)
        yield from looked_at(expression.rhs)
    elif isinstance(expression, promql.Call) and expression.func.name == "absent":
        yield from looked_at(expression.args[0])
    else:
        yield expression.prettify()


def is_found(monitored: Monitored, query: str) -> bool:
    return any(math.isfinite(value) for value in monitored.values(query))


def until_found(monitored: Monitored, query: str) -> None:
    """Waits until a query finds something."""
    monitored.values(query)  # whose error, if it has one, says more than that it finds nothing
    try:
        wait_until(lambda: is_found(monitored, query), seconds=120)
    except AssertionError:
        pytest.fail(f"finds nothing: {query}")


@pytest.mark.parametrize("name", [path.stem for path in DASHBOARDS])
def test_every_panel_shows_something(monitored: Monitored, name: str) -> None:
    [dashboard] = [load(path) for path in DASHBOARDS if path.stem == name]
    for panel in panels(dashboard):
        for target in panel["targets"]:
            query = filled_in(target["expr"])
            if (name, panel["title"]) in MAY_BE_EMPTY:
                monitored.values(query)
            else:
                until_found(monitored, query)


@pytest.mark.parametrize("name", [path.stem for path in DASHBOARDS])
def test_jobs_and_instances_are_found(monitored: Monitored, name: str) -> None:
    [dashboard] = [load(path) for path in DASHBOARDS if path.stem == name]
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            [metric, label] = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]).groups()
            until_found(monitored, f"count by ({label}) ({filled_in(metric)})")


def test_what_may_be_empty_is_there_still() -> None:
    shown = {(path.stem, panel["title"]) for path in DASHBOARDS for panel in panels(load(path))}
    assert set(MAY_BE_EMPTY) <= shown


def test_every_rule_finds_what_it_asks_for(monitored: Monitored) -> None:
    for rule in rules():
        if "record" in rule:
            until_found(monitored, rule["expr"])
            until_found(monitored, rule["record"])
    for alert in alerts():
        monitored.values(alert["expr"])
        for query in looked_at(promql.parse(alert["expr"])):
            until_found(monitored, query)


def test_rules_are_evaluated_without_errors(monitored: Monitored) -> None:
    def evaluated() -> list[dict]:
        return [rule for group in monitored.ask("rules")["groups"] for rule in group["rules"]]

    wait_until(lambda: all(rule["health"] != "unknown" for rule in evaluated()), seconds=120)
    assert [rule["name"] for rule in evaluated() if rule["health"] != "ok"] == []
    assert {rule["name"] for rule in evaluated()} == {
        rule.get("alert", rule.get("record")) for rule in rules()
    }
    told = [text for one in monitored.ask("alerts")["alerts"] for text in one["annotations"].values()]
    assert not any("error expanding" in text for text in told)
