"""`python -m service.telemetry.describe`: every metric of every process, as the page `docs/metrics.md`."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Histogram, ProcessCollector
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric

from service.telemetry.gpu import GpuCollector, GpuReading
from service.telemetry.metrics import GatewayMetrics, WorkerMetrics, labels_of

_HEAD = "| name | type | unit | labels | meaning |\n| --- | --- | --- | --- | --- |"

_PAGE = """\
# Metrics

Made by `make metrics` from the code; a test demands that it is current. The format is Prometheus', the names follow its
habits: base units, `_total` for what only rises. Labels have the values that are named here and no others, so that
the number of series is bounded whatever callers send; none names a user or an item. Where there is no unit it is a
number of what is named.

## Gateway

At `/metrics` of its HTTP port; with a key where `gateway.metrics_need_key` is set.

{gateway}

A scrape asks the worker and the history store whether they answer, for a second at most.

## Worker

At `/metrics` of `worker.metrics_port`, where one is set; from the start on, also while it loads.

{worker}

### Its GPU

Where there is an NVIDIA GPU and the extra `gpu` is installed, as by `make setup`, read from the driver at the scrape,
which waits half a second for it at most; otherwise they are missing.

{gpu}

## Both

{process}

## Restarts

The launcher, which starts a process again that died, serves no metrics. A process that started again has another
`process_start_time_seconds`: `changes(process_start_time_seconds[1h])` counts its restarts, by its port, which stays
the same. A worker that is down, or loads, is `padrec_ready{{check="worker"}} 0` in its gateways.

## Buckets of histograms

{buckets}
"""


def page() -> str:
    """The text of `docs/metrics.md`."""
    gateway, worker = CollectorRegistry(), CollectorRegistry()
    metrics = GatewayMetrics(gateway), WorkerMetrics(worker)
    histograms = [one for owner in metrics for one in vars(owner).values() if isinstance(one, Histogram)]
    return _PAGE.format(
        gateway=_table(metrics[0], gateway.collect()),
        worker=_table(metrics[1], worker.collect()),
        gpu=_table(None, GpuCollector(lambda: GpuReading("", 0, 0, 0.0)).describe()),
        process=_table(None, ProcessCollector(registry=None).collect()),
        buckets="\n".join(map(_buckets, histograms)),
    )


def _table(owner: object, families: Iterable[Metric]) -> str:
    labels = {
        one._name: one._labelnames
        for one in (() if owner is None else vars(owner).values())
        if isinstance(one, MetricWrapperBase)
    }
    return "\n".join([_HEAD, *(_row(family, labels.get(family.name)) for family in families)])


def _row(family: Metric, labels: tuple[str, ...] | None) -> str:
    if labels is None:
        labels = getattr(family, "_labelnames", ())
    name = f"{family.name}_total" if family.type == "counter" else family.name
    told = "; ".join(f"`{label}`: {_values(family.name, label)}" for label in labels)
    return f"| `{name}` | {family.type} | {_unit(family.name)} | {told} | {family.documentation} |"


def _values(metric: str, label: str) -> str:
    values = labels_of(metric, label)
    return values if isinstance(values, str) else ", ".join(f"`{value}`" for value in values)


def _unit(name: str) -> str:
    for unit in ("seconds", "bytes", "ratio"):
        if name.endswith(f"_{unit}"):
            return unit
    return ""


def _buckets(histogram: Histogram) -> str:
    bounds = ", ".join(f"{bound:g}" for bound in histogram._upper_bounds[:-1])
    return f"- `{histogram._name}`: {bounds}"


if __name__ == "__main__":
    print(page(), end="")
