"""The metrics of each kind of process; `docs/metrics.md` is made of what stands here.

A process makes one registry and one of these classes, and hands the object to those who count.
"""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROUND_SECONDS = tuple(ms / 1000 for ms in (0.5, 1, 1.5, 2, 3, 4, 6, 8, 16, 32, 64, 128, 256, 512, 1024))
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)
_MOST_RANKS = 10

FALLBACK_REASONS = ("cold_start", "history_unavailable")
SWAP_OUTCOMES = ("done", "failed")
CHECKS = ("worker", "history_store")
OUTCOMES = ("ok", "invalid", "queue_full", "deadline", "cancelled", "unavailable", "error")
PHASES = ("prefill", "decode")
RANKS = (*map(str, range(1, _MOST_RANKS + 1)), f"{_MOST_RANKS + 1}+")

# What labels may say. None can take more values than what is told here, whatever callers send.
LABELS: Mapping[str, str | tuple[str, ...]] = {
    "protocol": ("rest", "grpc"),
    "method": "the name of the call (`recommend`, `recommend_stream`, `recommend_batch`, `record_events`, "
    "`get_history`, `delete_history`, `get_item`), of another route, or `unknown`",
    "status": "REST: the HTTP status; gRPC: the name of the code (`OK`, `INVALID_ARGUMENT`, …)",
    "reason": FALLBACK_REASONS,
    "rank": RANKS,
    "check": CHECKS,
    "model_version": "of the bundle's manifest; one at a time",
    "catalog_version": "of the bundle's manifest; one at a time",
    "phase": PHASES,
    "tree": "`none`, or passes x width x places of the tree, with its share of all after a slash; ten at most, as "
    "the draft and the device say",
    "position": "from `1`: the how manyth guess of its path, forced tokens not counted; as deep as the deepest tree",
    "slot": "from `0` to the number of code levels",
    "gpu": "the GPU's UUID; the one that the worker uses",
}


def rank_label(rank: int) -> str:
    """A rank, from 1, as metrics tell it: those past the tenth are one."""
    return RANKS[min(rank, _MOST_RANKS + 1) - 1]


def labels_of(metric: str, label: str) -> str | tuple[str, ...]:
    """What a metric's label may say: all values, or a description of them."""
    if label == "outcome":
        return SWAP_OUTCOMES if metric == "padrec_bundle_swaps" else OUTCOMES
    return LABELS[label]


class GatewayMetrics:
    """What the gateway counts.

    Attributes:
        request_duration: labels protocol (`rest`, `grpc`), method (the call) and status.
        fallbacks: lists that did not come from the target; label reason.
        history_store_errors: reads and writes that the history store refused.
        listed_items: items of lists; label rank, as `rank_label` has it.
        joined_events: those of them that an event named its list for; label rank.
        swaps: of bundles; label outcome (`done`, `failed`).
        withdrawn_items: that are withdrawn now, known to the catalogue or not.
        ready: label check, what lists depend on; set when the metrics are asked for.
        bundle: 1 for what is served; labels model_version, catalog_version; set when the metrics are asked for.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.request_duration = Histogram(
            "padrec_request_duration_seconds",
            "From a request's arrival to the end of its answer.",
            ("protocol", "method", "status"),
            registry=registry,
            buckets=_SECONDS,
        )
        self.fallbacks = Counter(
            "padrec_fallback", "Lists that did not come from the target.", ("reason",), registry=registry
        )
        self.history_store_errors = Counter(
            "padrec_history_store_errors",
            "Reads and writes that the history store refused or did not answer in time.",
            registry=registry,
        )
        self.listed_items = Counter(
            "padrec_recommendation_items", "Items of lists that were answered.", ("rank",), registry=registry
        )
        self.joined_events = Counter(
            "padrec_recommendation_events",
            "Those of them that an event named the list for, each once.",
            ("rank",),
            registry=registry,
        )
        self.swaps = Counter(
            "padrec_bundle_swaps", "Swaps of bundles that are over.", ("outcome",), registry=registry
        )
        self.withdrawn_items = Gauge(
            "padrec_withdrawn_items", "Items that are withdrawn now.", registry=registry
        )
        self.ready = Gauge(
            "padrec_ready",
            "1 where what lists depend on answers now, asked at the scrape; the gateway is ready when all do.",
            ("check",),
            registry=registry,
        )
        self.bundle = _bundle_info(registry)
        _told_as_zero(self.fallbacks, FALLBACK_REASONS)
        _told_as_zero(self.listed_items, RANKS)
        _told_as_zero(self.joined_events, RANKS)
        _told_as_zero(self.swaps, SWAP_OUTCOMES)


class WorkerMetrics:
    """What the worker counts.

    Attributes:
        queue_duration: waiting time of a request before its prefill.
        batch_size: lists written at the same time, observed once per round.
        round_duration: label phase (`prefill`, `decode`, ...).
        forced_tokens: tokens appended without asking the target.
        rounds: label tree (`none`, or passes x width x places), what a round guessed.
        drafts: rounds of a list that had guesses to check.
        draft_tokens: guessed tokens that were checked.
        accepted_tokens: guesses that were accepted.
        accepted_tokens_per_position: the same; label position, from `1`: the how manyth guess of its path it was.
        accepted_tokens_per_slot: the same; label slot.
        num_waiting: requests in the queue now.
        kv_cache_usage: lists in flight over those there is room for.
        captured_graphs: prefills and rounds of one shape each that are captured; 0 where there are none.
        prefix_queries: prompts of which a beginning might have been known.
        prefix_hits: those of which one was.
        requests: requests that got their reply; label outcome (`ok`, `queue_full`, `deadline`, ...).
        ready: 1 while requests are taken.
        bundle: 1 for what is served; labels model_version, catalog_version.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.queue_duration = Histogram(
            "padrec_queue_duration_seconds",
            "Waiting time of a request before its prefill.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.batch_size = Histogram(
            "padrec_batch_size",
            "Lists written at the same time, once per round.",
            registry=registry,
            buckets=_BATCH,
        )
        self.round_duration = Histogram(
            "padrec_round_duration_seconds",
            "One phase of a round.",
            ("phase",),
            registry=registry,
            buckets=_ROUND_SECONDS,
        )
        self.forced_tokens = Counter(
            "padrec_forced_tokens",
            "Tokens that were the only one allowed, in finished lists.",
            registry=registry,
        )
        self.rounds = Counter(
            "padrec_spec_decode_rounds", "Rounds, by what they guessed.", ("tree",), registry=registry
        )
        self.drafts = Counter(
            "padrec_spec_decode_num_drafts",
            "Rounds of a list that had guesses to check, in finished lists.",
            registry=registry,
        )
        self.draft_tokens = Counter(
            "padrec_spec_decode_num_draft_tokens",
            "Guessed tokens that were checked, in finished lists; forced tokens are no guesses.",
            registry=registry,
        )
        self.accepted_tokens = Counter(
            "padrec_spec_decode_num_accepted_tokens",
            "Guesses that were accepted, in finished lists.",
            registry=registry,
        )
        self.accepted_tokens_per_position = Counter(
            "padrec_spec_decode_num_accepted_tokens_per_pos",
            "Guesses that were accepted, in finished lists, by how many guesses ahead.",
            ("position",),
            registry=registry,
        )
        self.accepted_tokens_per_slot = Counter(
            "padrec_spec_decode_num_accepted_tokens_per_slot",
            "Guesses that were accepted, in finished lists, by the slot that they fill.",
            ("slot",),
            registry=registry,
        )
        self.num_waiting = Gauge("padrec_queue_size", "Requests that wait now.", registry=registry)
        self.kv_cache_usage = Gauge(
            "padrec_kv_cache_usage_ratio", "Lists in flight over those there is room for.", registry=registry
        )
        self.captured_graphs = Gauge(
            "padrec_captured_graphs",
            "CUDA graphs that the engine has captured; while it captures one all lists in flight wait. 0 on a CPU.",
            registry=registry,
        )
        self.prefix_queries = Counter(
            "padrec_prefix_cache_queries",
            "Prompts of which a beginning might have been known.",
            registry=registry,
        )
        self.prefix_hits = Counter(
            "padrec_prefix_cache_hits", "Prompts of which a beginning was known.", registry=registry
        )
        self.requests = Counter(
            "padrec_worker_requests", "Requests that got their reply.", ("outcome",), registry=registry
        )
        self.ready = Gauge(
            "padrec_worker_ready",
            "1 while the worker takes requests: its engine is warm, and it does not drain.",
            registry=registry,
        )
        self.bundle = _bundle_info(registry)
        _told_as_zero(self.round_duration, PHASES)
        _told_as_zero(self.requests, OUTCOMES)


def _bundle_info(registry: CollectorRegistry) -> Gauge:
    return Gauge(
        "padrec_bundle_info",
        "1, for the bundle that is served.",
        ("model_version", "catalog_version"),
        registry=registry,
    )


def _told_as_zero(metric: Counter | Histogram, values: tuple[str, ...]) -> None:
    """Tell of these before the first: what appears as 1 looks to a rate as if nothing had happened."""
    for value in values:
        metric.labels(value)
