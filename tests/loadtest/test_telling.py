import pytest

from loadtest.recording import Sample
from loadtest.telling import engine_figures


def test_figures_are_of_what_grew_meanwhile() -> None:
    first = {
        "process_cpu_seconds_total": 5.0,
        "process_resident_memory_bytes": 700e6,
        "padrec_batch_size_sum": 100.0,
        "padrec_batch_size_count": 50.0,
        "padrec_queue_size": 2.0,
        "padrec_captured_graphs": 2.0,
        "padrec_kv_cache_usage_ratio": 0.5,
    }
    last = {
        "process_cpu_seconds_total": 9.0,
        "process_resident_memory_bytes": 704e6,
        "padrec_batch_size_sum": 140.0,
        "padrec_batch_size_count": 60.0,
        "padrec_forced_tokens_total": 60.0,
        "padrec_spec_decode_num_accepted_tokens_total": 20.0,
        "padrec_queue_duration_seconds_bucket{le=0.1}": 50.0,
        "padrec_queue_duration_seconds_bucket{le=0.5}": 100.0,
        "padrec_queue_duration_seconds_bucket{le=+Inf}": 100.0,
        **{
            f"padrec_round_duration_seconds_bucket{{le={limit},phase={phase}}}": count
            for phase, counts in {"prefill": (0, 10, 10), "decode": (50, 100, 100)}.items()
            for limit, count in zip(("0.002", "0.004", "+Inf"), counts, strict=True)
        },
        "padrec_spec_decode_rounds_total{tree=none}": 2.0,
        "padrec_spec_decode_rounds_total{tree=3x8x75/24}": 8.0,
        "padrec_captured_graphs": 5.0,
        "padrec_prefix_cache_queries_total": 10.0,
        "padrec_prefix_cache_hits_total": 4.0,
        "padrec_queue_size": 6.0,
        "padrec_kv_cache_usage_ratio": 1.0,
    }
    requests = "padrec_request_duration_seconds_{}{{method=recommend,protocol=rest,status={}}}"
    samples = [
        Sample("worker", 0.0, {"padrec_queue_size": 90.0}),  # before
        Sample("worker", 10.0, first),
        Sample("worker", 14.0, last),
        Sample("worker", 30.0, {"padrec_queue_size": 90.0}),  # after
        Sample("gateway", 10.0, {}),
        Sample("gateway", 14.0, {requests.format("sum", 200): 3.0, requests.format("count", 200): 5.0}),
        Sample("locust", 10.0, {"process_cpu_seconds_total": 1.0}),
        Sample("locust", 14.0, {"process_cpu_seconds_total": 3.0}),
    ]
    figures = engine_figures(samples, 9.0, 15.0)
    assert figures.pop("trees") == {"3x8x75/24": 0.8, "none": 0.2}
    assert figures == pytest.approx(
        {
            "queue_ms_p50": 100.0,
            "queue_ms_p99": 492.0,
            "prefill_ms_p50": 3.0,
            "prefill_ms_p99": 3.98,
            "round_ms_p50": 2.0,
            "round_ms_p99": 3.96,
            "waiting": 4.0,
            "batch_size": 4.0,
            "accepted_length": (40 + 60 + 20) / 40,
            "forced_share": 60 / 120,
            "captured": 3.0,
            "kv_cache_usage": 0.75,
            "prefix_hits": 0.4,
            "gateway_ms": 600.0,
            "gateway_cores": 0.0,
            "worker_cores": 1.0,
            "locust_cores": 0.5,
            "gateway_mb_start": None,
            "gateway_mb_end": None,
            "worker_mb_start": 700.0,
            "worker_mb_end": 704.0,
        }
    )


def gateway(number: int, at: float, cpu: float, megabytes: float, seconds: float, count: float) -> Sample:
    labels = "{method=recommend,protocol=grpc,status=OK}"
    values = {
        "process_cpu_seconds_total": cpu,
        "process_resident_memory_bytes": megabytes * 1e6,
        f"padrec_request_duration_seconds_sum{labels}": seconds,
        f"padrec_request_duration_seconds_count{labels}": count,
    }
    return Sample("gateway", at, values, number)


def test_several_gateways_are_told_of_together() -> None:
    samples = [
        gateway(0, 1.0, cpu=10.0, megabytes=200, seconds=5.0, count=50),
        gateway(1, 1.5, cpu=90.0, megabytes=210, seconds=70.0, count=7_000),
        gateway(0, 9.0, cpu=14.0, megabytes=201, seconds=6.0, count=60),
        gateway(1, 9.5, cpu=92.0, megabytes=215, seconds=71.0, count=7_090),
    ]
    figures = engine_figures(samples, 0.0, 10.0)
    assert figures["gateway_ms"] == pytest.approx(1_000 * 2 / 100)
    assert figures["gateway_cores"] == pytest.approx(4 / 8 + 2 / 8)
    assert (figures["gateway_mb_start"], figures["gateway_mb_end"]) == (410, 416)


def test_what_all_gateways_take_is_not_told_where_one_does_not_say() -> None:
    samples = [
        gateway(0, 1.0, cpu=10.0, megabytes=200, seconds=5.0, count=50),
        gateway(0, 9.0, cpu=14.0, megabytes=201, seconds=6.0, count=60),
        gateway(1, 19.0, cpu=92.0, megabytes=215, seconds=71.0, count=7_090),  # afterwards
    ]
    figures = engine_figures(samples, 0.0, 10.0)
    assert figures["gateway_ms"] == pytest.approx(100)
    assert figures["gateway_cores"] is None
    assert figures["gateway_mb_start"] is None


def test_nothing_is_told_where_nobody_says() -> None:
    assert set(engine_figures([], 0.0, 10.0).values()) == {None}


def test_a_worker_that_was_started_anew_has_not_grown() -> None:
    samples = [
        Sample("worker", at, {"process_cpu_seconds_total": cpu, "padrec_batch_size_sum": 8.0})
        for at, cpu in ((1.0, 50.0), (2.0, 3.0))
    ]
    figures = engine_figures(samples, 0.0, 10.0)
    assert figures["accepted_length"] is None
    assert figures["worker_cores"] is None


def test_a_queue_longer_than_the_last_limit_is_told_as_that() -> None:
    bucket = "padrec_queue_duration_seconds_bucket{{le={}}}"
    samples = [
        Sample("worker", 1.0, {}),
        Sample("worker", 2.0, {bucket.format("1.0"): 0.0, bucket.format("+Inf"): 9.0}),
    ]
    assert engine_figures(samples, 0.0, 3.0)["queue_ms_p50"] == 1_000
