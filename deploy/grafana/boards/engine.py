"""What writes the lists: the workers."""

from deploy.grafana.panels import Board, Drawing, Query, process_panels, quantiles, rate, ratio, value

_ROUND = "padrec_round_duration_seconds"
_FINISHED = 'outcome="ok"'

_QUEUE = (
    Drawing(
        "Waiting now",
        "Requests in each worker's queue; at worker.max_queue it refuses.",
        "short",
        (Query(value("padrec_queue_size"), "{{instance}}"),),
    ),
    Drawing(
        "Waiting time",
        "From a request's arrival at the worker to its prefill. Where this rises, workers are too few.",
        "s",
        quantiles("padrec_queue_duration_seconds"),
    ),
    Drawing(
        "Replies",
        "Requests per second that got their reply, by outcome.",
        "reqps",
        (Query(rate("padrec_worker_requests_total", "outcome"), "{{outcome}}"),),
        kind="stacked",
    ),
)

_ROUNDS = (
    Drawing(
        "Batch size",
        "Lists that a round writes at the same time: the mean, and quantiles bounded by the histogram's "
        "buckets.",
        "short",
        (
            Query(ratio("padrec_batch_size_sum", "padrec_batch_size_count"), "mean"),
            *quantiles("padrec_batch_size", shares=(0.5, 0.95)),
        ),
    ),
    Drawing(
        "Rounds",
        "Per second by phase: prefills, and passes of the target over all lists in flight.",
        "cps",
        (Query(rate(f"{_ROUND}_count", "phase"), "{{phase}}"),),
    ),
    Drawing(
        "Engine busy",
        "Share of each worker's time that its engine spends in a phase; together near 100% it is at its "
        "limit, and only larger batches give more.",
        "percentunit",
        (Query(rate(f"{_ROUND}_sum", "instance, phase"), "{{instance}} {{phase}}"),),
        kind="stacked",
    ),
    Drawing(
        "Prefill",
        "Duration of one prefill of all requests that were admitted together.",
        "s",
        quantiles(_ROUND, 'phase="prefill"'),
    ),
    Drawing(
        "Decode",
        "Duration of one round: guesses and the target's pass. It grows with the batch and with what is "
        "guessed.",
        "s",
        quantiles(_ROUND, 'phase="decode"'),
    ),
    Drawing(
        "Rounds for a list",
        "Passes over a list until it is finished, by list and beam decoding alike.",
        "short",
        (
            Query(
                f"{rate('padrec_batch_size_sum')} / {rate('padrec_worker_requests_total', '', _FINISHED)}",
                "rounds",
            ),
        ),
    ),
)

_CACHE = (
    Drawing(
        "KV cache in use",
        "Lists in flight over those there is room for (worker.max_batch), as of the latest round.",
        "percentunit",
        (Query(value("padrec_kv_cache_usage_ratio"), "{{instance}}"),),
    ),
    Drawing(
        "Prefix hits",
        "Share of prompts of which a beginning was known from an earlier request (worker.kept_prompts).",
        "percentunit",
        (
            Query(
                ratio("padrec_prefix_cache_hits_total", "padrec_prefix_cache_queries_total"),
                "hits",
            ),
        ),
    ),
    Drawing(
        "Prompts looked up",
        "Prompts per second of which a beginning might have been known, and those of which one was.",
        "cps",
        (
            Query(rate("padrec_prefix_cache_queries_total"), "looked up"),
            Query(rate("padrec_prefix_cache_hits_total"), "known"),
        ),
    ),
)

# Where there is an NVIDIA GPU; all but the graphs need what reads its metrics.
_GPU = (
    Drawing(
        "CUDA graphs",
        "Shapes of passes that are captured. While one is, all lists in flight wait; a worker captures most as it "
        "starts, so later it rises slowly. 0 on a CPU.",
        "short",
        (Query(value("padrec_captured_graphs"), "{{instance}}"),),
    ),
    Drawing(
        "GPU busy",
        "Share of the latest moments in which the GPU computed something. How much of it was used it does not "
        "say: the batch size does.",
        "percentunit",
        (Query(value("padrec_gpu_utilization_ratio"), "{{instance}} {{gpu}}"),),
    ),
    Drawing(
        "GPU memory",
        "Memory of the GPU in use, by whichever process. A swap needs room for a second worker beside the first.",
        "bytes",
        (Query(value("padrec_gpu_memory_used_bytes"), "{{instance}} {{gpu}}"),),
    ),
    Drawing(
        "GPU memory in use",
        "Its share of all memory of the GPU.",
        "percentunit",
        (
            Query(
                f"{value('padrec_gpu_memory_used_bytes')} / {value('padrec_gpu_memory_total_bytes')}",
                "{{instance}} {{gpu}}",
            ),
        ),
    ),
)

ENGINE = Board(
    name="engine",
    title="padrec: engine",
    description="Queue, batches, rounds and memory of the workers.",
    found_by="padrec_queue_size",
    rows=(
        ("Queue", _QUEUE),
        ("Rounds", _ROUNDS),
        ("Cache", _CACHE),
        ("GPU", _GPU),
        ("Workers", process_panels("worker")),
    ),
)
