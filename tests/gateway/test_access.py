"""API keys over both protocols: who is let in, to what, and how often."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fastapi.routing import iter_route_contexts
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from structlog.testing import capture_logs

from service.config import GatewaySettings
from service.gateway.access import CALLS, KeyInterceptor, scope_of
from service.gateway.grpc import SERVICE
from service.gateway.keys import KeyRing, add_key, remove_key
from service.gateway.recommender import Recommender
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from tests.gateway.conftest import app_of, http_client
from tests.gateway.grpc_calls import ask, refused, serving
from tests.gateway.test_rate import Clock

EVENT = {"user_id": "ann", "item_id": "item-1"}
# Every call of the use case, in both protocols, by its name: how REST and gRPC make it.
REST: dict[str, Callable[[httpx.AsyncClient, Mapping[str, str]], Any]] = {
    "recommend": lambda c, h: c.post("/recommend", json={"user_id": "ann"}, headers=h),
    "recommend_stream": lambda c, h: c.post("/recommend/stream", json={"user_id": "ann"}, headers=h),
    "recommend_batch": lambda c, h: c.post("/recommend/batch", json={"requests": [{"user_id": "ann"}]}, headers=h),
    "get_item": lambda c, h: c.get("/items/item-1", headers=h),
    "get_history": lambda c, h: c.get("/users/ann/history", headers=h),
    "record_events": lambda c, h: c.post("/events", json={"events": [EVENT]}, headers=h),
    "delete_history": lambda c, h: c.delete("/users/ann/history", headers=h),
}  # fmt: skip
GRPC: dict[str, Callable[[Any, Any], Any]] = {
    "recommend": lambda s, m: s.Recommend(ask(), metadata=m),
    "recommend_stream": lambda s, m: aiter(s.RecommendStream(ask(), metadata=m)).__anext__(),
    "recommend_batch": lambda s, m: s.BatchRecommend(pb.BatchRecommendRequest(requests=[ask()]), metadata=m),
    "get_item": lambda s, m: s.GetItem(pb.GetItemRequest(item_id="item-1"), metadata=m),
    "get_history": lambda s, m: s.GetHistory(pb.GetHistoryRequest(user_id="ann"), metadata=m),
    "record_events": lambda s, m: s.RecordEvents(pb.RecordEventsRequest(events=[pb.Event(**EVENT)]), metadata=m),
    "delete_history": lambda s, m: s.DeleteHistory(pb.DeleteHistoryRequest(user_id="ann"), metadata=m),
}  # fmt: skip
SCOPES = {name: scope for name, _, scope in CALLS}


class Guarded:
    """A recommender that asks for keys, and both ways to call it."""

    def __init__(self, file: Path, recommender: Recommender) -> None:
        self.file, self.clock, self.recommender = file, Clock(), recommender
        self.keys = {scope: add_key(file, scope, [scope]) for scope in ("read", "events", "admin")}
        self.limited = add_key(file, "limited", ["read"], 0.5, 3)
        self.ring = KeyRing(file, self.clock)
        self.client: httpx.AsyncClient
        self.stub: Any
        self.channel: grpc.aio.Channel


@pytest.fixture
async def guarded(recommender: Recommender, tmp_path: Path) -> AsyncIterator[Guarded]:
    guarded = Guarded(tmp_path / "keys.json", recommender)
    async with AsyncExitStack() as stack:
        guarded.client = await stack.enter_async_context(http_client(recommender, keys=guarded.ring))
        _, guarded.channel = await stack.enter_async_context(serving(recommender, keys=guarded.ring))
        guarded.stub = recommender_pb2_grpc.RecommenderStub(guarded.channel)
        yield guarded


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_every_call_says_which_scope_it_needs(recommender: Recommender) -> None:
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["Recommender"].methods}
    assert methods == {method for _, method, _ in CALLS}
    app = app_of(recommender)
    routes = {context.route.name: context.path for context in iter_route_contexts(app.routes)}
    called = {
        name
        for name, path in routes.items()
        if not path.startswith(
            ("/health", "/docs", "/openapi.json", "/static", "/metrics", "/console", "/admin")
        )
    }
    assert called == {name for name, _, _ in CALLS} == set(REST) == set(GRPC)


def test_a_call_that_does_not_say_needs_admin() -> None:
    assert scope_of("swap_bundle") == scope_of("SwapBundle") == "admin"


async def test_a_name_that_another_call_has_too_lets_nobody_in(
    recommender: Recommender, guarded: Guarded
) -> None:
    app = app_of(recommender, guarded.ring)

    @app.get("/admin/item", name="get_item")
    async def item() -> str:
        return "told"

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        for scope, status in (("read", 403), ("admin", 200)):
            answer = await client.get("/admin/item", headers=bearer(guarded.keys[scope]))
            assert answer.status_code == status

    class Found:
        method = "/padrec.v1.Admin/GetItem"
        invocation_metadata = tuple(bearer(guarded.keys["read"]).items())

    async def found(_details: object) -> object:
        return "the handler"

    interceptor = KeyInterceptor(guarded.ring, lambda _: (grpc.StatusCode.OK, "", ()), recommender.metrics)
    assert await interceptor.intercept_service(found, Found) != "the handler"
    Found.invocation_metadata = tuple(bearer(guarded.keys["admin"]).items())
    assert await interceptor.intercept_service(found, Found) == "the handler"


@pytest.mark.parametrize("name", REST)
async def test_the_right_scope_is_let_in(guarded: Guarded, name: str) -> None:
    for scope in (SCOPES[name], "admin"):
        key = guarded.keys[scope]
        for headers in (bearer(key), {"x-api-key": key}, {"authorization": f"bEARER {key}"}):
            assert (await REST[name](guarded.client, headers)).status_code in (200, 204)
            await GRPC[name](guarded.stub, tuple(headers.items()))


@pytest.mark.parametrize("name", REST)
async def test_another_scope_is_refused(guarded: Guarded, name: str) -> None:
    other = {"read": "events", "events": "read"}[SCOPES[name]]
    rest = await REST[name](guarded.client, bearer(guarded.keys[other]))
    assert (rest.status_code, rest.headers["content-type"]) == (403, "application/problem+json")
    code, status = await refused(GRPC[name](guarded.stub, tuple(bearer(guarded.keys[other]).items())))
    assert (code, status.message) == (grpc.StatusCode.PERMISSION_DENIED, rest.json()["detail"])


@pytest.mark.parametrize("name", REST)
@pytest.mark.parametrize(
    "headers",
    [{}, {"authorization": "Bearer wrong"}, {"x-api-key": "wrong"}, {"authorization": "Basic YTpi"}, {"x-api-key": ""}],
)  # fmt: skip
async def test_nobody_is_let_in_without_a_key(guarded: Guarded, name: str, headers: dict[str, str]) -> None:
    rest = await REST[name](guarded.client, headers)
    assert (rest.status_code, rest.headers["www-authenticate"]) == (401, "Bearer")
    assert rest.headers["content-type"] == "application/problem+json"
    code, status = await refused(GRPC[name](guarded.stub, tuple(headers.items())))
    assert (code, status.message) == (grpc.StatusCode.UNAUTHENTICATED, rest.json()["detail"])


async def test_a_stranger_is_refused_unread_and_learns_nothing(guarded: Guarded) -> None:
    json = {"content-type": "application/json"}
    for path in ("/recommend", "/admin/swap", "/nowhere", "/users/ann/history", "/metrics/", "/health"):
        for content in (b"{", b" " * 8_192):
            assert (await guarded.client.post(path, content=content, headers=json)).status_code == 401
    unknown = guarded.channel.unary_unary(f"/{SERVICE}/Nothing")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unknown(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_what_orchestrators_and_people_ask_stays_open(guarded: Guarded) -> None:
    await REST["get_item"](
        guarded.client, bearer(guarded.keys["read"])
    )  # after which nothing is left of the key
    for path in (
        "/health/live",
        "/health/startup",
        "/health/ready",
        "/metrics",
        "/docs",
        "/openapi.json",
        "/console",
        "/console/console.js",
    ):
        assert (await guarded.client.get(path)).status_code == 200
    assert (await guarded.client.get("/static-offline-docs/swagger-ui.css")).status_code == 200
    health = health_pb2_grpc.HealthStub(guarded.channel)
    await health.Check(health_pb2.HealthCheckRequest(service=""))
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    reflection = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    assert [answer async for answer in reflection.ServerReflectionInfo(iter([asked]))]


async def test_the_console_is_open_but_not_what_it_asks_for(guarded: Guarded) -> None:
    path = "/console/users"
    assert (await guarded.client.get(path)).status_code == 401
    assert (await guarded.client.get(path, headers=bearer(guarded.keys["events"]))).status_code == 403
    assert (await guarded.client.get(path, headers=bearer(guarded.keys["read"]))).status_code == 200


class TestMetricsWithAKey:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> GatewaySettings:
        return GatewaySettings(keys_file=tmp_path / "keys.json", metrics_need_key=True)

    async def test_only_a_reader_gets_them(self, guarded: Guarded) -> None:
        assert (await guarded.client.get("/metrics")).status_code == 401
        assert (
            await guarded.client.get("/metrics", headers=bearer(guarded.keys["events"]))
        ).status_code == 403
        assert (await guarded.client.get("/metrics", headers=bearer(guarded.keys["read"]))).status_code == 200


async def test_a_key_is_revoked_without_a_restart(guarded: Guarded) -> None:
    headers = bearer(guarded.keys["read"])
    assert (await guarded.client.get("/items/item-1", headers=headers)).status_code == 200
    remove_key(guarded.file, "read")
    guarded.clock.now += 1
    assert (await guarded.client.get("/items/item-1", headers=headers)).status_code == 401
    code, _ = await refused(GRPC["get_item"](guarded.stub, tuple(headers.items())))
    assert code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_key_has_one_rate_for_both_protocols(guarded: Guarded) -> None:
    headers = bearer(guarded.limited)
    metadata = tuple(headers.items())
    assert (await REST["recommend"](guarded.client, headers)).status_code == 200
    assert (await REST["get_item"](guarded.client, headers)).status_code == 200
    await GRPC["get_history"](guarded.stub, metadata)
    rest = await REST["recommend"](guarded.client, headers)
    assert (rest.status_code, rest.headers["retry-after"]) == (429, "2")
    assert "0.5 times a second" in rest.json()["detail"]
    code, status = await refused(GRPC["recommend"](guarded.stub, metadata))
    assert (code, status.message) == (grpc.StatusCode.RESOURCE_EXHAUSTED, rest.json()["detail"])
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 2_000
    # Others are not held up, and health is nobody's.
    assert (await REST["recommend"](guarded.client, bearer(guarded.keys["read"]))).status_code == 200
    guarded.clock.now += 2
    await GRPC["recommend"](guarded.stub, metadata)


async def test_a_batch_counts_as_its_lists(guarded: Guarded) -> None:
    headers = bearer(guarded.limited)
    three = [{"user_id": "ann"}] * 3
    rest = await guarded.client.post("/recommend/batch", json={"requests": three}, headers=headers)
    assert rest.status_code == 200
    for count in (1, 2, 3):  # there is always one less, which is enough to be let in, but not for the batch
        batch = pb.BatchRecommendRequest(requests=[ask()] * count)
        code, status = await refused(guarded.stub.BatchRecommend(batch, metadata=tuple(headers.items())))
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        retry = error_details_pb2.RetryInfo()
        assert status.details[0].Unpack(retry)
        assert retry.retry_delay.ToSeconds() == 2
        guarded.clock.now += 2
    await guarded.stub.BatchRecommend(batch, metadata=tuple(headers.items()))


async def test_refusals_are_counted(guarded: Guarded) -> None:
    await REST["recommend"](guarded.client, {})
    await refused(GRPC["recommend"](guarded.stub, ()))
    count = guarded.recommender.metrics.registry.get_sample_value
    name = "padrec_request_duration_seconds_count"
    assert count(name, {"protocol": "rest", "method": "unknown", "status": "401"}) == 1
    assert count(name, {"protocol": "grpc", "method": "recommend", "status": "UNAUTHENTICATED"}) == 1


async def test_no_key_is_logged(guarded: Guarded) -> None:
    key = "padrec_a-secret-that-somebody-sent"
    with capture_logs() as logs:
        await REST["recommend"](guarded.client, bearer(key))
        await refused(GRPC["recommend"](guarded.stub, tuple(bearer(key).items())))
        await REST["recommend"](guarded.client, bearer(guarded.keys["read"]))
    assert logs
    assert key not in str(logs)
    assert guarded.keys["read"] not in str(logs)


async def test_the_openapi_document_says_how_to_send_a_key(
    guarded: Guarded, client: httpx.AsyncClient
) -> None:
    document = (await guarded.client.get("/openapi.json")).json()
    schemes = document["components"]["securitySchemes"]
    assert {name: (one["type"], one.get("scheme"), one.get("name")) for name, one in schemes.items()} == {
        "bearer": ("http", "bearer", None),
        "api_key": ("apiKey", None, "X-API-Key"),
    }
    assert "delete_history" in schemes["bearer"]["description"]
    recommend = document["paths"]["/recommend"]["post"]
    assert recommend["security"] == [{"bearer": []}, {"api_key": []}]
    assert {"401", "403", "429"} <= set(recommend["responses"])
    assert "security" not in document["paths"]["/health/ready"]["get"]
    without = (await client.get("/openapi.json")).json()
    assert "securitySchemes" not in without["components"]
