"""What callers get: the gateways."""

from deploy.grafana.panels import PICKED, Board, Drawing, Query, process_panels, quantiles, rate, value

_DURATION = "padrec_request_duration_seconds"
# Probes and scrapes are no callers.
_CALLS = 'method!~"live|ready|startup|metrics"'
_LISTS = 'method=~"recommend|recommend_stream"'
_FAILED = 'status=~"5..|INTERNAL|UNAVAILABLE|DEADLINE_EXCEEDED|UNKNOWN|DATA_LOSS"'

_NOW = (
    Drawing(
        "Ready",
        "1 where everything that lists depend on answers a gateway: the worker and the history store.",
        "bool_yes_no",
        (Query(f"min by (instance, check) ({value('padrec_ready')})", "{{instance}} {{check}}"),),
        kind="number",
        good_from=1,
    ),
    Drawing(
        "Failed calls",
        "Share of calls that failed by our fault: 5xx, or INTERNAL, UNAVAILABLE, DEADLINE_EXCEEDED and the "
        "like. The objective leaves 0.1% over 30 days.",
        "percentunit",
        (
            Query(
                f"({rate(f'{_DURATION}_count', '', f'{_CALLS},{_FAILED}')} or vector(0))"
                f" / {rate(f'{_DURATION}_count', '', _CALLS)}",
                "failed",
            ),
        ),
        kind="number",
        good_below=0.001,
    ),
    Drawing(
        "Budget burn, last hour",
        "How many times faster than the objectives allow the error budgets are spent; 1 spends them in 30 "
        "days. From the rules in deploy/prometheus, for each job as a whole.",
        "none",
        (
            Query('job:padrec_failed_requests:ratio_rate1h{job=~"$job"} / 0.001', "{{job}} failed"),
            Query('job:padrec_slow_lists:ratio_rate1h{job=~"$job"} / 0.01', "{{job}} slow"),
        ),
        kind="number",
        good_below=1,
    ),
)

_REQUESTS = (
    Drawing(
        "By call",
        "Requests per second by protocol and call, probes left out.",
        "reqps",
        (Query(rate(f"{_DURATION}_count", "protocol, method", _CALLS), "{{protocol}} {{method}}"),),
        kind="stacked",
    ),
    Drawing(
        "By status",
        "Requests per second by protocol and status, probes left out.",
        "reqps",
        (Query(rate(f"{_DURATION}_count", "protocol, status", _CALLS), "{{protocol}} {{status}}"),),
        kind="stacked",
    ),
    Drawing(
        "Not answered as asked",
        "Requests per second that were refused or failed, by call and status. 404 and 422 are the callers', "
        "429 is a full queue or a key past its rate, 503 a missing worker or history store, 504 a deadline.",
        "reqps",
        (
            Query(
                rate(f"{_DURATION}_count", "method, status", f'{_CALLS},status!~"2..|OK"'),
                "{{method}} {{status}}",
            ),
        ),
        kind="stacked",
    ),
    Drawing(
        "Duration of lists",
        "From a request's arrival to its answer, of lists that were answered one by one, REST and gRPC; the "
        "objective is 99% within half a second. Bounded by the histogram's buckets.",
        "s",
        quantiles(_DURATION, f'{_LISTS},status=~"2..|OK"'),
    ),
    Drawing(
        "Duration by call",
        "The 95th percentile of each call, refused ones included.",
        "s",
        (
            Query(
                f"histogram_quantile(0.95, {rate(f'{_DURATION}_bucket', 'le, protocol, method', _CALLS)})",
                "{{protocol}} {{method}}",
            ),
        ),
    ),
    Drawing(
        "Duration by status",
        "The mean by protocol and status: refusals should be fast.",
        "s",
        (
            Query(
                f"{rate(f'{_DURATION}_sum', 'protocol, status', _CALLS)}"
                f" / {rate(f'{_DURATION}_count', 'protocol, status', _CALLS)}",
                "{{protocol}} {{status}}",
            ),
        ),
    ),
)

_LISTS_AND_HISTORIES = (
    Drawing(
        "Fallbacks",
        "Lists per second that did not come from the target: cold_start has no known item in the history, "
        "history_unavailable had no history store.",
        "cps",
        (Query(rate("padrec_fallback_total", "reason"), "{{reason}}"),),
        kind="stacked",
    ),
    Drawing(
        "History store errors",
        "Reads and writes per second that the history store refused or did not answer in time; none is usual.",
        "cps",
        (Query(rate("padrec_history_store_errors_total", "instance"), "{{instance}}"),),
    ),
    Drawing(
        "Withdrawn items",
        "Items that are withdrawn now; gateways that share a history store agree within a second.",
        "short",
        (Query(value("padrec_withdrawn_items"), "{{instance}}"),),
    ),
    Drawing(
        "Items listed",
        "Items of lists that were answered, per second, by rank.",
        "cps",
        (Query(rate("padrec_recommendation_items_total", "rank"), "{{rank}}"),),
        kind="stacked",
    ),
    Drawing(
        "Clicks by rank",
        "Share of the items listed at a rank, in the time shown, that an event named the list for. It falls "
        "with the rank; a step from one bundle to the next is the bundle's.",
        "percentunit",
        (
            Query(
                f"sum by (rank) (increase(padrec_recommendation_events_total{{{PICKED}}}[$__range]))"
                f" / sum by (rank) (increase(padrec_recommendation_items_total{{{PICKED}}}[$__range]))",
                "{{rank}}",
            ),
        ),
        kind="bars",
    ),
    Drawing(
        "Bundle swaps",
        "Swaps of bundles that are over since each gateway's start, by outcome; after one that failed the bundle "
        "before it serves on.",
        "short",
        (
            Query(
                f"sum by (instance, outcome) ({value('padrec_bundle_swaps_total')})",
                "{{instance}} {{outcome}}",
            ),
        ),
    ),
)

SERVICE = Board(
    name="service",
    title="padrec: service",
    description="What callers get from the gateways: rate, errors, duration, fallbacks, clicks, readiness.",
    found_by="padrec_ready",
    rows=(
        ("Now", _NOW),
        ("Requests", _REQUESTS),
        ("Lists and histories", _LISTS_AND_HISTORIES),
        ("Gateways", process_panels("gateway")),
    ),
)
