"""A trace through both processes, as a collector gets it; request IDs in the logs of both."""

import gzip
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc

REST_TRACE, GRPC_TRACE = "0af7651916cd43dd8448eb211c80319c", "1bf7651916cd43dd8448eb211c80319d"


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.url = f"http://127.0.0.1:{self.server_port}/v1/traces"
        self.spans: list[tuple[str, Any]] = []

    def names(self, trace: str) -> set[str]:
        return {name for name, span in self.spans if span.trace_id.hex() == trace}

    def parent(self, trace: str, name: str) -> str | None:
        """Of the span of this name."""
        own = {found: span for found, span in self.spans if span.trace_id.hex() == trace}
        return next((n for n, span in own.items() if span.span_id == own[name].parent_span_id), None)


class Receiver(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            process = named["service.name"].removeprefix("padrec-")
            for scope in resource.scope_spans:
                self.server.spans += [(f"{process}/{span.name}", span) for span in scope.spans]
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever)
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_one_trace_in_both_processes(serve: Any, bundle: Path, tmp_path: Path, collector: Collector) -> None:
    settings = {
        "PADREC_TRACING__ENDPOINT": collector.url,
        "PADREC_TRACING__SAMPLE_RATIO": "0",  # callers decide
        "PADREC_GATEWAY__GRPC_PORT": "0",
        "PADREC_LOG__LEVEL": "debug",
        "PADREC_LOG__FORMAT": "json",
    }
    asked = {"user_id": "ann", "history": ["3", "1"]}
    with serve(bundle, tmp_path / "history.sqlite3", **settings) as service:
        told = {"traceparent": f"00-{REST_TRACE}-b7ad6b7169203331-01", "x-request-id": "by-rest"}
        answer = httpx.post(f"{service.url}/recommend", json=asked, headers=told, timeout=30)
        assert (answer.status_code, answer.headers["x-request-id"]) == (200, "by-rest")
        assert httpx.post(f"{service.url}/recommend", json=asked, timeout=30).status_code == 200
        told = {"traceparent": f"00-{GRPC_TRACE}-b7ad6b7169203331-01", "x-request-id": "by-grpc"}
        with grpc.insecure_channel(service.grpc) as channel:
            stub = recommender_pb2_grpc.RecommenderStub(channel)
            request = pb.RecommendRequest(user_id="ann", history=pb.ItemIds(item_ids=["3", "1"]))
            assert stub.Recommend(request, metadata=tuple(told.items()), timeout=30).items
    # What was not sent yet is sent when the processes end.
    below = {
        "worker/decode": "gateway/worker.decode",
        "gateway/worker.decode": "gateway/recommend",
        "gateway/history_store.remember": "gateway/recommend",
    } | dict.fromkeys(("worker/queue", "worker/prefill", "worker/rounds"), "worker/decode")
    for trace in (REST_TRACE, GRPC_TRACE):
        assert collector.names(trace) == {"gateway/recommend", *below}
        assert {name: collector.parent(trace, name) for name in below} == below
    assert {span.trace_id.hex() for _, span in collector.spans} == {REST_TRACE, GRPC_TRACE}
    lines = [json.loads(line) for line in service.lines if line.startswith("{")]
    for request_id, trace in (("by-rest", REST_TRACE), ("by-grpc", GRPC_TRACE)):
        own = [line for line in lines if line.get("request_id") == request_id]
        assert {line["logger"] for line in own} >= {"service.worker.handler"}
        assert len({line["logger"] for line in own if line["logger"].startswith("service.gateway")}) == 1
        assert {line["trace_id"] for line in own if line["event"] == "request"} == {trace}
