"""The metrics of each kind of process, by the names that `docs/architecture.md` lists.

A process makes one registry and one of these classes, and hands the object to those who count.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_ROUND_SECONDS = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024)
_BATCH = (1, 2, 4, 8, 16, 32, 64, 128)
_MOST_RANKS = 10


def rank_label(rank: int) -> str:
    """A rank, from 1, as metrics tell it: those past the tenth are one."""
    return str(rank) if rank <= _MOST_RANKS else f"{_MOST_RANKS + 1}+"


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
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.request_duration = Histogram(
            "padrec_request_duration_seconds",
            "From the request's arrival to its answer.",
            ("protocol", "method", "status"),
            registry=registry,
            buckets=_SECONDS,
        )
        self.fallbacks = Counter(
            "padrec_fallback", "Lists that did not come from the target.", ("reason",), registry=registry
        )
        self.history_store_errors = Counter(
            "padrec_history_store_errors",
            "Reads and writes that the history store refused.",
            registry=registry,
        )
        self.listed_items = Counter(
            "padrec_recommendation_items", "Items of lists, by rank.", ("rank",), registry=registry
        )
        self.joined_events = Counter(
            "padrec_recommendation_events",
            "Items of lists that an event named the list for, by rank.",
            ("rank",),
            registry=registry,
        )
        for rank in range(1, _MOST_RANKS + 2):
            for counter in (self.listed_items, self.joined_events):
                counter.labels(rank_label(rank))  # told as 0 before the first
        self.swaps = Counter(
            "padrec_bundle_swaps", "Swaps of bundles that are over.", ("outcome",), registry=registry
        )
        self.withdrawn_items = Gauge(
            "padrec_withdrawn_items", "Items that are withdrawn now.", registry=registry
        )


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
        prefix_queries: prompts of which a beginning might have been known.
        prefix_hits: those of which one was.
        requests: requests that got their reply; label outcome (`ok`, `queue_full`, `deadline`, ...).
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self.queue_duration = Histogram(
            "padrec_queue_duration_seconds",
            "Waiting time before the prefill.",
            registry=registry,
            buckets=_SECONDS,
        )
        self.batch_size = Histogram(
            "padrec_batch_size",
            "Lists written at the same time, per round.",
            registry=registry,
            buckets=_BATCH,
        )
        self.round_duration = Histogram(
            "padrec_round_duration_seconds",
            "Duration of one phase of a round.",
            ("phase",),
            registry=registry,
            buckets=_ROUND_SECONDS,
        )
        self.forced_tokens = Counter(
            "padrec_forced_tokens", "Tokens that were the only one allowed.", registry=registry
        )
        self.rounds = Counter(
            "padrec_spec_decode_rounds", "Rounds, by what they guessed.", ("tree",), registry=registry
        )
        self.drafts = Counter(
            "padrec_spec_decode_num_drafts", "Rounds of a list that had guesses to check.", registry=registry
        )
        self.draft_tokens = Counter(
            "padrec_spec_decode_num_draft_tokens", "Guessed tokens that were checked.", registry=registry
        )
        self.accepted_tokens = Counter(
            "padrec_spec_decode_num_accepted_tokens", "Guesses that were accepted.", registry=registry
        )
        self.accepted_tokens_per_position = Counter(
            "padrec_spec_decode_num_accepted_tokens_per_pos",
            "Guesses that were accepted, by how many guesses ahead.",
            ("position",),
            registry=registry,
        )
        self.accepted_tokens_per_slot = Counter(
            "padrec_spec_decode_num_accepted_tokens_per_slot",
            "Guesses that were accepted, by slot.",
            ("slot",),
            registry=registry,
        )
        self.num_waiting = Gauge("padrec_queue_size", "Requests in the queue now.", registry=registry)
        self.kv_cache_usage = Gauge(
            "padrec_kv_cache_usage_ratio", "Lists in flight over those there is room for.", registry=registry
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
