"""Spans, and nothing of them where the settings ask for none."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.config import TracingSettings
from service.errors import InputError
from service.telemetry.otlp import OtlpTracer
from service.telemetry.tracing import Tracing, open_tracing, past, say, span, trace_headers

CALLER = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
NOT_SAMPLED = {"traceparent": CALLER["traceparent"][:-2] + "00"}


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    return Tracing(OtlpTracer(SimpleSpanProcessor(exporter), 1.0, "padrec-test"))


def found(exporter: InMemorySpanExporter) -> dict[str, ReadableSpan]:
    return {one.name: one for one in exporter.get_finished_spans()}


def parent_of(spans: dict[str, ReadableSpan], name: str) -> str | None:
    parent = spans[name].parent
    return next((n for n, s in spans.items() if parent and s.context.span_id == parent.span_id), None)


def test_a_tree(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    with tracing.request("recommend", CALLER) as request:
        assert request.trace_id == "0af7651916cd43dd8448eb211c80319c"
        with span("list"):
            with span("worker.decode", {"padrec.num_history_items": 3}, to_other=True):
                sent = trace_headers()
            past("queue", 1_000, 3_000, {"padrec.num_rounds": 2})
        say({"padrec.degraded": False})
        request.rename("recommend_batch")
    spans = found(exporter)
    assert [parent_of(spans, name) for name in ("worker.decode", "queue", "list", "recommend_batch")] == [
        "list",
        "list",
        "recommend_batch",
        None,
    ]
    assert (spans["queue"].start_time, spans["queue"].end_time) == (1_000, 3_000)
    assert spans["recommend_batch"].attributes == {"padrec.degraded": False}
    assert spans["recommend_batch"].resource.attributes["service.name"] == "padrec-test"
    kinds = {name: one.kind.name for name, one in spans.items()}
    assert kinds == {
        "recommend_batch": "SERVER",
        "list": "INTERNAL",
        "queue": "INTERNAL",
        "worker.decode": "CLIENT",
    }
    span_id = f"{spans['worker.decode'].context.span_id:016x}"
    assert sent == {"traceparent": f"00-0af7651916cd43dd8448eb211c80319c-{span_id}-01"}


def test_an_error_is_told_by_its_name_alone(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match="ann"), tracing.request("recommend", {}), span("filter"):
        raise ValueError("ann")
    spans = found(exporter)
    assert spans["filter"].attributes == {"error.type": "ValueError"}
    assert not spans["filter"].status.is_ok
    assert spans["filter"].status.description is None
    assert spans["filter"].events == ()
    assert spans["recommend"].status.is_unset


@pytest.mark.parametrize(
    ("headers", "ratio", "count"), [({}, 0.0, 0), (CALLER, 0.0, 2), (NOT_SAMPLED, 1.0, 0)]
)
def test_the_caller_decides_where_there_is_one(
    exporter: InMemorySpanExporter, headers: dict[str, str], ratio: float, count: int
) -> None:
    tracing = Tracing(OtlpTracer(SimpleSpanProcessor(exporter), ratio, "padrec-test"))
    with tracing.request("recommend", headers) as request, span("filter"):
        assert trace_headers()["traceparent"].split("-")[1] == request.trace_id
    assert len(exporter.get_finished_spans()) == count


async def test_a_stream_whose_parts_run_in_different_tasks(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    async def stream() -> AsyncIterator[int]:
        with span("worker.decode"):
            yield 1
            yield 2
        with span("history_store.remember"):
            yield 3

    with tracing.request("recommend_stream", {}):
        updates: Any = stream()
        assert [await asyncio.create_task(anext(updates)) for _ in range(3)] == [1, 2, 3]
        await updates.aclose()
    spans = found(exporter)
    assert parent_of(spans, "worker.decode") == "recommend_stream"
    assert parent_of(spans, "history_store.remember") == "recommend_stream"
    assert spans["history_store.remember"].attributes == {"error.type": "GeneratorExit"}


def test_without_settings_nothing_happens() -> None:
    tracing = open_tracing(TracingSettings(), "padrec-test")
    with tracing.request("recommend", CALLER) as request, span("filter"):
        past("queue", 1, 2)
        say({"padrec.degraded": True})
        assert request.trace_id == ""
        assert trace_headers() == {}
    tracing.close()


def test_without_settings_opentelemetry_is_not_imported() -> None:
    code = """
import sys
from service.config import Settings
from service.telemetry.requests import received, sent_along, traced
from service.telemetry.tracing import open_tracing, span
import service.worker.process
tracing = open_tracing(Settings().tracing, "padrec-test")
headers = {"traceparent": sys.argv[1]}
received(headers)
with traced(tracing, "recommend", headers), span("filter"):
    sent_along()
before = [name for name in sys.modules if name.startswith("opentelemetry")]
assert not before, before
# The framework looks for OpenTelemetry by itself; none of what makes or sends spans comes with the gateway.
import service.gateway.server
assert not [name for name in sys.modules if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))]
"""
    command = [sys.executable, "-c", code, CALLER["traceparent"]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_settings_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "service.telemetry.otlp", None)
    with pytest.raises(InputError, match=r"^setting 'tracing.endpoint': .* extra 'tracing'"):
        open_tracing(TracingSettings(endpoint="http://127.0.0.1:4318/v1/traces"), "padrec-test")
