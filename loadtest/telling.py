"""What gateways and worker say of themselves, from their /metrics, over a stage."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from loadtest.recording import Sample

_CPU = "process_cpu_seconds_total"
_MEMORY = "process_resident_memory_bytes"
_QUEUE = "padrec_queue_duration_seconds"
_BATCH = "padrec_batch_size"
_ROUND = "padrec_round_duration_seconds"
_ROUNDS = "padrec_spec_decode_rounds_total"
_CAPTURED = "padrec_captured_graphs"
_FORCED = "padrec_forced_tokens_total"
_ACCEPTED = "padrec_spec_decode_num_accepted_tokens_total"
_WAITING = "padrec_queue_size"
_USAGE = "padrec_kv_cache_usage_ratio"
_QUERIES, _HITS = "padrec_prefix_cache_queries_total", "padrec_prefix_cache_hits_total"
_REQUESTS = "padrec_request_duration_seconds"

SAMPLED = (
    _CPU,
    _MEMORY,
    *(f"{name}_{part}" for name in (_QUEUE, _ROUND) for part in ("bucket", "sum", "count")),
    _ROUNDS,
    _CAPTURED,
    *(f"{_BATCH}_{part}" for part in ("sum", "count")),
    *(f"{_REQUESTS}_{part}" for part in ("sum", "count")),
    _FORCED,
    _ACCEPTED,
    _WAITING,
    _USAGE,
    _QUERIES,
    _HITS,
)
_DURATIONS: tuple[tuple[str, str, dict[str, str]], ...] = (
    ("queue", _QUEUE, {}),
    ("prefill", _ROUND, {"phase": "prefill"}),
    ("round", _ROUND, {"phase": "decode"}),
)


def engine_figures(samples: Sequence[Sample], start: float, end: float) -> dict[str, Any]:
    """The worker's figures between two times, and each process's cores and memory; None where nothing says.

    Several gateways are told of as one: calls of all of them, and the cores and memory that they took together, where
    each says how much. Tokens of a round are the accepted guesses, the forced ones, and the target's own: one for each
    list that it wrote.
    """
    of: dict[str, dict[int, list[Sample]]] = {}
    for sample in samples:
        its = of.setdefault(sample.process, {}).setdefault(sample.number, [])
        if start <= sample.at <= end:
            its.append(sample)
    worker = of.get("worker", {}).get(0, [])
    grown = _growth(worker)
    list_rounds, forced = grown.get(f"{_BATCH}_sum", 0.0), grown.get(_FORCED, 0.0)
    tokens = list_rounds + forced + grown.get(_ACCEPTED, 0.0)
    gateways = [_growth(its) for its in of.get("gateway", {}).values()]
    return {
        **{
            f"{name}_ms_p{percent}": _in_ms(_quantile(grown, histogram, percent / 100, **labels))
            for name, histogram, labels in _DURATIONS
            for percent in (50, 99)
        },
        "waiting": _mean(worker, _WAITING),
        "batch_size": _ratio(list_rounds, grown.get(f"{_BATCH}_count", 0.0)),
        "accepted_length": _ratio(tokens, list_rounds),
        "forced_share": _ratio(forced, tokens),
        "trees": _shares(grown, _ROUNDS, "tree"),
        "captured": grown.get(_CAPTURED),
        "kv_cache_usage": _mean(worker, _USAGE),
        "prefix_hits": _ratio(grown.get(_HITS, 0.0), grown.get(_QUERIES, 0.0)),
        "gateway_ms": _in_ms(
            _ratio(_sum(gateways, f"{_REQUESTS}_sum"), _sum(gateways, f"{_REQUESTS}_count"))
        ),
        **{
            f"{name}_cores": _together(map(_cores, of.get(name, {}).values()))
            for name in ("gateway", "worker", "locust")
        },
        **{
            f"{name}_mb_{when}": _together(_megabytes(its[place:][:1]) for its in of.get(name, {}).values())
            for name in ("gateway", "worker")
            for when, place in (("start", 0), ("end", -1))
        },
    }


def _growth(samples: Sequence[Sample]) -> dict[str, float]:
    """By how much every value rose; nothing where there are not two samples, or the process was started anew."""
    if len(samples) < 2:
        return {}
    first, last = samples[0].values, samples[-1].values
    grown = {name: value - first.get(name, 0.0) for name, value in last.items()}
    return {} if grown.get(_CPU, 0.0) < 0 else grown


def _quantile(grown: Mapping[str, float], histogram: str, share: float, **labels: str) -> float | None:
    """Of what has these labels and no others, straight within a bucket, as Prometheus has it."""
    others = "".join(f",{name}={value}" for name, value in sorted(labels.items()))
    buckets = sorted(
        (float(found.group(1)), count)
        for name, count in grown.items()
        if (found := re.fullmatch(rf"{histogram}_bucket{{le=([^,]+){others}}}", name))
    )
    if not buckets or buckets[-1][1] <= 0:
        return None
    rank, below, count_below = share * buckets[-1][1], 0.0, 0.0
    for limit, count in buckets:
        if count >= rank:
            if limit == float("inf"):
                return below
            return below + (limit - below) * (rank - count_below) / (count - count_below)
        below, count_below = limit, count
    return below


def _shares(grown: Mapping[str, float], name: str, label: str) -> dict[str, float] | None:
    """By value of the only label, the largest first; nothing where nothing grew."""
    counts = {
        found.group(1): count
        for key, count in grown.items()
        if count > 0 and (found := re.fullmatch(rf"{name}{{{label}=(.+)}}", key))
    }
    total = sum(counts.values())
    falling = sorted(counts, key=counts.__getitem__, reverse=True)
    return {value: counts[value] / total for value in falling} or None


def _sum(grown: Iterable[Mapping[str, float]], name: str) -> float:
    """Of all processes, whatever the labels."""
    return sum(
        value for its in grown for key, value in its.items() if key == name or key.startswith(f"{name}{{")
    )


def _together(figures: Iterable[float | None]) -> float | None:
    """Their sum; None where there are none, or one is not known: the others' would be too little."""
    total = None
    for figure in figures:
        if figure is None:
            return None
        total = figure + (total or 0.0)
    return total


def _mean(samples: Sequence[Sample], name: str) -> float | None:
    values = [sample.values[name] for sample in samples if name in sample.values]
    return sum(values) / len(values) if values else None


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _in_ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1_000 * seconds


def _megabytes(samples: Sequence[Sample]) -> float | None:
    used = _mean(samples, _MEMORY)
    return None if used is None else used / 1e6


def _cores(samples: Sequence[Sample]) -> float | None:
    if len(samples) < 2 or samples[-1].at <= samples[0].at:
        return None
    used = samples[-1].values.get(_CPU, 0.0) - samples[0].values.get(_CPU, 0.0)
    return used / (samples[-1].at - samples[0].at) if used >= 0 else None
