from prometheus_client import CollectorRegistry, generate_latest

from service.telemetry.metrics import GatewayMetrics, WorkerMetrics


def test_gateway_metrics_have_the_names_of_the_design() -> None:
    metrics = GatewayMetrics(CollectorRegistry())
    metrics.request_duration.labels("rest", "recommend", "200").observe(0.02)
    metrics.fallbacks.labels("cold_start").inc()
    metrics.history_store_errors.inc()
    text = generate_latest(metrics.registry).decode()
    assert (
        'padrec_request_duration_seconds_count{method="recommend",protocol="rest",status="200"} 1.0' in text
    )
    assert 'padrec_fallback_total{reason="cold_start"} 1.0' in text
    assert "padrec_history_store_errors_total 1.0" in text


def test_worker_metrics_have_the_names_of_the_design() -> None:
    metrics = WorkerMetrics(CollectorRegistry())
    metrics.queue_duration.observe(0.001)
    metrics.batch_size.observe(4)
    metrics.round_duration.labels("decode").observe(0.003)
    metrics.forced_tokens.inc(7)
    metrics.drafts.inc(2)
    metrics.draft_tokens.inc(8)
    metrics.accepted_tokens.inc(5)
    metrics.accepted_tokens_per_position.labels("1").inc(3)
    metrics.accepted_tokens_per_slot.labels("0").inc(4)
    metrics.num_waiting.set(3)
    metrics.requests.labels("ok").inc()
    text = generate_latest(metrics.registry).decode()
    assert "padrec_queue_duration_seconds_count 1.0" in text
    assert 'padrec_batch_size_bucket{le="4.0"} 1.0' in text
    assert 'padrec_round_duration_seconds_count{phase="decode"} 1.0' in text
    assert "padrec_forced_tokens_total 7.0" in text
    assert "padrec_spec_decode_num_drafts_total 2.0" in text
    assert "padrec_spec_decode_num_draft_tokens_total 8.0" in text
    assert "padrec_spec_decode_num_accepted_tokens_total 5.0" in text
    assert 'padrec_spec_decode_num_accepted_tokens_per_pos_total{position="1"} 3.0' in text
    assert 'padrec_spec_decode_num_accepted_tokens_per_slot_total{slot="0"} 4.0' in text
    assert "padrec_queue_size 3.0" in text
    assert 'padrec_worker_requests_total{outcome="ok"} 1.0' in text


def test_two_processes_worth_of_metrics_share_nothing() -> None:
    first, second = WorkerMetrics(CollectorRegistry()), WorkerMetrics(CollectorRegistry())
    first.forced_tokens.inc()
    assert "padrec_forced_tokens_total 0.0" in generate_latest(second.registry).decode()
