"""What dashboards are made of: panels of queries, in rows, for the jobs and instances that a reader picks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
    VizOrientation,
)
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    Threshold,
    ThresholdsMode,
    VariableRefresh,
    VariableSort,
)

PICKED = 'job=~"$job",instance=~"$instance"'

_SOURCE = DataSourceRef(type_val="prometheus", uid="${datasource}")
_TAG = "padrec"
_WIDTH, _HEIGHT = 8, 8


@dataclass(frozen=True)
class Query:
    """A query, and what its series are called.

    Attributes:
        expression: PromQL, with Grafana's variables.
        legend: with labels as `{{label}}`.
    """

    expression: str
    legend: str


@dataclass(frozen=True)
class Drawing:
    """A panel.

    Attributes:
        title: a few words.
        description: what it tells, and when to worry.
        unit: of Grafana's units, by its ID.
        queries: what is drawn.
        kind: curves, curves on top of each other, the latest value as a number, or a bar for each series.
        good_from: numbers below are red, and the others green; None: no such number.
        good_below: numbers from here on are red, and the others green; None: no such number.
    """

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Literal["lines", "stacked", "number", "bars"] = "lines"
    good_from: float | None = None
    good_below: float | None = None


@dataclass(frozen=True)
class Board:
    """A dashboard.

    Attributes:
        name: of its file, and in its address.
        title: as listed.
        description: in a sentence.
        found_by: a metric that each process has that can be picked.
        rows: title and panels.
    """

    name: str
    title: str
    description: str
    found_by: str
    rows: tuple[tuple[str, tuple[Drawing, ...]], ...]


def rate(metric: str, by: str = "", where: str = "") -> str:
    """A counter's increase per second, summed over what was picked.

    Args:
        metric: the counter.
        by: labels to keep, separated by commas.
        where: more matchers.
    """
    return f"sum by ({by}) (rate({_selected(metric, where)}[$__rate_interval]))"


def ratio(part: str, whole: str) -> str:
    """A share, or so many of one for each of the other, of two counters over what was picked."""
    return f"{rate(part)} / {rate(whole)}"


def quantiles(
    histogram: str, where: str = "", shares: Sequence[float] = (0.5, 0.95, 0.99)
) -> tuple[Query, ...]:
    """Quantiles of a histogram, each a query."""
    buckets = rate(f"{histogram}_bucket", "le", where)
    return tuple(Query(f"histogram_quantile({share}, {buckets})", f"p{share * 100:g}") for share in shares)


def value(metric: str, where: str = "") -> str:
    """A gauge of each process that was picked."""
    return _selected(metric, where)


def process_panels(what: str) -> tuple[Drawing, ...]:
    """Memory, CPU and age of a kind of process."""
    return (
        Drawing(
            "Memory",
            f"Resident memory of each {what}, on the host; a curve that only rises is a leak.",
            "bytes",
            (Query(value("process_resident_memory_bytes"), "{{instance}}"),),
        ),
        Drawing(
            "CPU",
            f"Cores that each {what} keeps busy.",
            "none",
            (Query(f"rate({_selected('process_cpu_seconds_total')}[$__rate_interval])", "{{instance}}"),),
        ),
        Drawing(
            "Time since start",
            f"A {what} that falls to zero was started again: by a bundle swap, by you, or because it died.",
            "s",
            (Query(f"time() - {_selected('process_start_time_seconds')}", "{{instance}}"),),
        ),
    )


def build(board: Board) -> Dashboard:
    """What Grafana reads."""
    built = (
        dashboard.Dashboard(board.title)
        .uid(f"padrec-{board.name}")
        .description(board.description)
        .tags([_TAG])
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .link(
            dashboard.DashboardLink("padrec")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([_TAG])
            .as_dropdown(True)
            .keep_time(True)
        )
        .with_variable(dashboard.DatasourceVariable("datasource").label("Source").type("prometheus"))
        .with_variable(_variable("job", "Job", f"label_values({board.found_by}, job)"))
        .with_variable(
            _variable("instance", "Instance", f'label_values({board.found_by}{{job=~"$job"}}, instance)')
        )
    )
    number = 0
    for title, drawings in board.rows:
        built.with_row(dashboard.Row(title))
        for drawing in drawings:
            number += 1
            built.with_panel(_panel(drawing).id(number))
    return built.build()


def _selected(metric: str, where: str = "") -> str:
    return f"{metric}{{{PICKED}{',' if where else ''}{where}}}"


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .query(query)
        .datasource(_SOURCE)
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".+")
    )


_Panel = timeseries.Panel | stat.Panel | bargauge.Panel


def _panel(drawing: Drawing) -> _Panel:
    panel = _kinds(drawing)
    panel.title(drawing.title).description(drawing.description).unit(drawing.unit)
    panel.datasource(_SOURCE).span(_WIDTH).height(_HEIGHT).thresholds(_thresholds(drawing))
    for number, query in enumerate(drawing.queries):
        target = prometheus.Dataquery().expr(query.expression).legend_format(query.legend)
        target.ref_id(chr(ord("A") + number)).datasource(_SOURCE)
        panel.with_target(target.instant() if drawing.kind == "bars" else target.range())
    return panel


def _thresholds(drawing: Drawing) -> dashboard.ThresholdsConfig:
    steps = [Threshold(value=None, color="green" if drawing.good_from is None else "red")]
    if drawing.good_from is not None:
        steps.append(Threshold(value=drawing.good_from, color="green"))
    if drawing.good_below is not None:
        steps.append(Threshold(value=drawing.good_below, color="red"))
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(steps)


def _kinds(drawing: Drawing) -> _Panel:
    if drawing.kind == "number":
        return stat.Panel()
    if drawing.kind == "bars":
        return bargauge.Panel().orientation(VizOrientation.HORIZONTAL).min(0)
    panel = (
        timeseries.Panel()
        .min(0)
        .fill_opacity(10)
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
        .legend(
            common.VizLegendOptions()
            .show_legend(True)
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
        )
    )
    if drawing.kind == "stacked":
        panel.fill_opacity(60).stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    return panel
