"""One trace from the caller's call to the engine's rounds, over REST and gRPC; the worker with a fake engine."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from service.catalog.bundle import Bundle
from service.gateway.edition import Edition
from service.gateway.keys import KeyRing, add_key
from service.gateway.recommender import Recommender
from service.history.store import HistoryStore
from service.rpc.client import WorkerClient
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from service.rpc.server import WorkerServer
from service.telemetry.metrics import WorkerMetrics
from service.telemetry.otlp import OtlpTracer
from service.telemetry.requests import sent_along
from service.telemetry.tracing import Tracing
from service.types import DecodedList, Event, SpeculationCounts
from service.worker.handler import DecodeHandler, in_request
from service.worker.loop import EngineLoop
from service.worker.scheduler import Scheduler
from tests.gateway.conftest import http_client
from tests.gateway.grpc_calls import ask, refused, serving
from tests.worker.conftest import FakeEngine

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01", "x-request-id": "order 66"}
FILTER = {"attribute": "price", "op": "<", "value": 90}
Tree = dict[str, Any]


class TimedEngine(FakeEngine):
    """Says how long it took."""

    def round(self) -> list[DecodedList]:
        counts = SpeculationCounts(1, 8, (2, 1), (2, 1, 0))
        took = {"prefill_seconds": 0.002, "decode_seconds": 0.003}
        return [
            replace(one, num_round_tokens=14, num_round_forced_tokens=4, speculation=counts, **took)
            for one in super().round()
        ]


@dataclass
class Traced:
    """A gateway and its worker, and the spans that ended in either."""

    recommender: Recommender
    gateway: Tracing
    spans: dict[str, InMemorySpanExporter]
    handler: DecodeHandler

    def tree(self, root: str) -> Tree:
        """The spans below the one of this name, by their names, with the names of the processes."""
        everything = [
            (process, one) for process, spans in self.spans.items() for one in spans.get_finished_spans()
        ]

        def below(span_id: int) -> Tree:
            children = sorted(
                (
                    (process, one)
                    for process, one in everything
                    if one.parent is not None and one.parent.span_id == span_id
                ),
                key=lambda found: found[1].start_time,
            )
            return {f"{process}/{one.name}": below(one.context.span_id) for process, one in children}

        [found] = [one for _, one in everything if one.name == root]
        return below(found.context.span_id)

    def all(self) -> list[ReadableSpan]:
        return [one for spans in self.spans.values() for one in spans.get_finished_spans()]

    def span(self, name: str) -> ReadableSpan:
        [found] = [one for one in self.all() if one.name == name]
        return found

    async def worker_told(self) -> None:
        """Wait until the worker's spans have ended: its reply may be read before."""
        async with asyncio.timeout(30):
            while not any(one.name == "decode" for one in self.all()):
                await asyncio.sleep(0.01)


@pytest.fixture
async def traced(
    bundle: Bundle,
    store: HistoryStore,
    make_recommender: Callable[[HistoryStore], Recommender],
    tmp_path: Path,
) -> AsyncIterator[Traced]:
    spans = {name: InMemorySpanExporter() for name in ("gateway", "worker")}
    tracing = {
        name: Tracing(OtlpTracer(SimpleSpanProcessor(one), 1.0, f"padrec-{name}"))
        for name, one in spans.items()
    }
    metrics, scheduler = WorkerMetrics(CollectorRegistry()), Scheduler(8)
    loop = EngineLoop(partial(TimedEngine, 4), scheduler, metrics, on_ready=lambda: None, on_end=lambda: None)
    loop.start()
    server = WorkerServer(f"unix:{tmp_path}/w", around=partial(in_request, tracing["worker"]))
    address = await server.start()
    handler = DecodeHandler(bundle.manifest, scheduler, 4, metrics)
    await server.serve(handler)
    client = WorkerClient(address, bundle.manifest.catalog_version, metadata=sent_along)
    recommender = make_recommender(store)
    recommender.edition = Edition.read(bundle, client)
    await store.append([Event("ann", "item-1", 1.0)])
    yield Traced(recommender, tracing["gateway"], spans, handler)
    scheduler.close()
    assert await asyncio.to_thread(loop.join, 30)
    await client.close()
    await server.stop(0)


@pytest.fixture
async def rest(traced: Traced) -> AsyncIterator[httpx.AsyncClient]:
    async with http_client(traced.recommender, tracing=traced.gateway) as client:
        yield client


@pytest.fixture
async def stub(traced: Traced) -> AsyncIterator[Any]:
    async with serving(traced.recommender, tracing=traced.gateway) as (_, channel):
        yield recommender_pb2_grpc.RecommenderStub(channel)


LIST = {
    "gateway/history_store.get": {},
    "gateway/filter": {},
    "gateway/worker.decode": {
        "worker/decode": {"worker/queue": {}, "worker/prefill": {}, "worker/rounds": {}}
    },
    "gateway/history_store.remember": {},
}


async def ask_rest(rest: httpx.AsyncClient, stub: Any) -> str:
    answer = await rest.post("/recommend", json=ASKED, headers=CALLER)
    assert answer.status_code == 200
    return answer.headers["x-request-id"]


async def ask_rest_stream(rest: httpx.AsyncClient, stub: Any) -> str:
    answer = await rest.post("/recommend/stream", json=ASKED, headers=CALLER)
    assert "event: done" in answer.text
    return answer.headers["x-request-id"]


async def ask_grpc(rest: httpx.AsyncClient, stub: Any) -> str:
    call = stub.Recommend(ask(num_items=3, filter=FILTER), metadata=tuple(CALLER.items()))
    assert len((await call).items) == 3
    return dict(await call.trailing_metadata())["x-request-id"]


async def ask_grpc_stream(rest: httpx.AsyncClient, stub: Any) -> str:
    call = stub.RecommendStream(ask(num_items=3, filter=FILTER), metadata=tuple(CALLER.items()))
    assert [update.WhichOneof("update") async for update in call][-1] == "done"
    return dict(await call.trailing_metadata())["x-request-id"]


ASKED = {"user_id": "ann", "num_items": 3, "filter": FILTER}
ASKS = [
    (ask_rest, "recommend"),
    (ask_grpc, "recommend"),
    (ask_rest_stream, "recommend_stream"),
    (ask_grpc_stream, "recommend_stream"),
]


@pytest.mark.parametrize(("asked", "name"), ASKS)
async def test_one_trace_through_gateway_and_worker(
    traced: Traced, rest: httpx.AsyncClient, stub: Any, asked: Callable[..., Any], name: str
) -> None:
    with capture_logs() as lines:
        assert await asked(rest, stub) == "order 66"
        await traced.worker_told()
    assert traced.tree(name) == LIST
    assert {f"{one.context.trace_id:032x}" for one in traced.all()} == {TRACE}
    request = traced.span(name)
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == "b7ad6b7169203331"
    said = dict(request.attributes or {})
    assert said["padrec.request_id"] == "order 66"
    assert said["padrec.num_items"] == 3
    assert said["padrec.degraded"] is False
    assert said.get("http.response.status_code", 200) == 200
    assert said.get("rpc.grpc.status_code", 0) == 0
    assert dict(traced.span("rounds").attributes or {}) == {
        "padrec.num_rounds": 3,
        "padrec.num_items": 3,
        "padrec.num_tokens": 14,
        "padrec.num_forced_tokens": 4,
        "padrec.num_draft_tokens": 8,
        "padrec.num_accepted_tokens": 3,
    }
    prefill, rounds = traced.span("prefill"), traced.span("rounds")
    assert prefill.end_time == rounds.start_time
    assert rounds.end_time - rounds.start_time == 3_000_000
    assert "ann" not in " ".join(one.to_json() for one in traced.all())
    # The worker's own line, as well as the gateway's.
    assert len([line for line in lines if line["event"] == "request"]) == 2


async def test_the_lists_of_a_batch_are_told_apart(traced: Traced, rest: httpx.AsyncClient) -> None:
    answer = await rest.post("/recommend/batch", json={"requests": [ASKED, {"user_id": "bob"}]})
    assert [one["error"] for one in answer.json()["results"]] == [None, None]
    lists = [one for one in traced.all() if one.name == "list"]
    batch = traced.span("recommend_batch")
    assert [one.parent.span_id for one in lists if one.parent] == [batch.context.span_id] * 2
    fallbacks = sorted(str((one.attributes or {}).get("padrec.fallback")) for one in lists)
    assert fallbacks == ["None", "cold_start"]


async def test_no_call_names_its_user(traced: Traced, rest: httpx.AsyncClient, stub: Any) -> None:
    event = {"user_id": "ann-17", "item_id": "item-1"}
    assert (await rest.post("/events", json={"events": [event]})).status_code == 200
    assert (await rest.get("/users/ann-17/history")).status_code == 200
    assert (await rest.delete("/users/ann-17/history")).status_code == 204
    assert (await rest.get("/users/ann-17/nothing")).status_code == 404
    await stub.RecordEvents(pb.RecordEventsRequest(events=[pb.Event(**event)]))
    await stub.GetHistory(pb.GetHistoryRequest(user_id="ann-17"))
    await stub.DeleteHistory(pb.DeleteHistoryRequest(user_id="ann-17"))
    names = Counter(one.name for one in traced.all())
    assert names == {
        **dict.fromkeys(("record_events", "history_store.append"), 2),
        **dict.fromkeys(("get_history", "history_store.get"), 2),
        **dict.fromkeys(("delete_history", "history_store.delete"), 2),
        "unknown": 1,
    }
    assert "ann-17" not in " ".join(one.to_json() for one in traced.all())


async def test_a_callers_mistake_is_no_error_of_the_service(
    traced: Traced, rest: httpx.AsyncClient, stub: Any
) -> None:
    await rest.post("/recommend", json={"user_id": "ann", "num_items": 40})
    await refused(stub.Recommend(ask(num_items=40)))
    statuses = [one.status.is_unset for one in traced.all() if one.name == "recommend"]
    assert statuses == [True, True]


async def test_the_services_own_failure_is_one(traced: Traced, rest: httpx.AsyncClient, stub: Any) -> None:
    traced.handler.scheduler.close()
    assert (await rest.post("/recommend", json=ASKED)).status_code == 503
    assert (await refused(stub.Recommend(ask())))[0] is grpc.StatusCode.UNAVAILABLE
    first, second = (one for one in traced.all() if one.name == "recommend")
    assert not first.status.is_ok
    assert not first.status.is_unset
    assert (first.attributes or {})["error.type"] == "503"
    assert (second.attributes or {})["error.type"] == "UNAVAILABLE"
    failed = {(one.attributes or {}).get("error.type") for one in traced.all() if one.name == "decode"}
    assert failed == {"UnavailableError"}


@pytest.mark.parametrize("path", ["/health/ready", "/metrics", "/docs"])
async def test_what_machines_ask_again_and_again_is_not_traced(
    traced: Traced, rest: httpx.AsyncClient, path: str
) -> None:
    assert (await rest.get(path)).status_code == 200
    assert traced.all() == []


async def test_strangers_get_no_trace_but_an_id(traced: Traced, tmp_path: Path) -> None:
    add_key(tmp_path / "keys.toml", "shop", ["read"])
    keys = KeyRing(tmp_path / "keys.toml")
    async with http_client(traced.recommender, keys=keys, tracing=traced.gateway) as client:
        answer = await client.post("/recommend", json=ASKED, headers=CALLER)
    assert (answer.status_code, answer.headers["x-request-id"]) == (401, "order 66")
    async with serving(traced.recommender, keys=keys, tracing=traced.gateway) as (_, channel):
        call = recommender_pb2_grpc.RecommenderStub(channel).Recommend(ask(), metadata=tuple(CALLER.items()))
        assert (await refused(call))[0] is grpc.StatusCode.UNAUTHENTICATED
        assert dict(await call.trailing_metadata())["x-request-id"] == "order 66"
    assert traced.all() == []
