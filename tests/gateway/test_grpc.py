"""gRPC over a real connection, beside REST: they answer alike."""

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.json_format import MessageToDict
from google.rpc import code_pb2, error_details_pb2, status_pb2

from service.errors import DeadlineExceededError, PadrecError, QueueFullError, UnavailableError
from service.gateway.recommender import Recommender
from service.history.store import HistoryStore
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from tests.gateway.grpc_calls import ask, refused, serving


def fields_at_fault(status: status_pb2.Status) -> list[str]:
    bad = error_details_pb2.BadRequest()
    assert status.details[0].Unpack(bad)
    return [violation.field for violation in bad.field_violations]


def as_rest(message: pb.RecommendResponse) -> dict[str, Any]:
    """A list as REST would have told it, without what differs from call to call."""
    told = MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    told["items"] = [
        {
            **one["item"],
            "attributes": one["item"].get("attributes", {}),
            "rank": one["rank"],
            "score": one.get("score"),
            "promoted": one["promoted"],
        }
        for one in told["items"]
    ]
    for one in told.get("explanation", {}).get("rounds", ()):
        one["tokens"] = [dict.fromkeys(("code", "item_id", "title")) | token for token in one["tokens"]]
    fallback = told["fallback"].removeprefix("FALLBACK_").lower()
    return comparable({**told, "fallback": None if fallback == "unspecified" else fallback})


def comparable(answer: dict[str, Any]) -> dict[str, Any]:
    assert set(answer["timings"]) == {"history_ms", "queue_ms", "prefill_ms", "decode_ms", "total_ms"}
    return {"speculation": None, "explanation": None, "num_allowed_items": None} | {
        name: value for name, value in answer.items() if name not in ("recommendation_id", "timings")
    }


FILTER_OF_EIGHT = {
    "all": [
        {"attribute": "price", "op": ">=", "value": 4},
        {"attribute": "price", "op": "<", "value": 12},
        {"attribute": "brand", "op": "in", "value": ["Brand 1", "Brand 2"]},
        {"attribute": "brand", "op": "!=", "value": "Brand 2"},
    ]
}


def nested(depth: int) -> dict[str, Any]:
    """A condition inside so many others."""
    wanted: dict[str, Any] = {"attribute": "price", "op": "<=", "value": 7}
    for _ in range(depth):
        wanted = {"all": [wanted]}
    return wanted


QUERIES: list[dict[str, Any]] = [
    {"history": ["item-1", "no-1"], "num_items": 2},
    {"history": ["item-1"], "exclude_item_ids": ["item-2", "no-2"]},
    {"history": ["item-1", "item-2"], "exclude_seen": False, "num_items": 30},
    {"history": ["item-1"], "decoding": "beam"},
    {"history": ["item-1"], "explain": True, "num_items": 3},
    {"history": ["item-1"], "temperature": 0.5, "top_p": 0.9, "seed": 2**63 - 1, "priority": -3},
    {"history": []},
    {},
    {"history": ["item-1"], "exclude_item_ids": [f"item-{n}" for n in range(18)]},
    {"history": ["item-1"], "filter": {"attribute": "price", "op": "<=", "value": 7}},
    {
        "history": ["item-1"],
        "filter": {"attribute": "brand", "op": "not in", "value": ["Brand 1"]},
        "num_items": 4,
    },
    {"history": [], "filter": {"attribute": "brand", "op": "==", "value": "Brand 2"}},
    {"history": ["item-1"], "filter": nested(7)},
    {"filter": {"any": [{"none": [{"attribute": "price", "op": ">", "value": 1.5}]}, FILTER_OF_EIGHT]}},
    {
        "history": ["item-1"],
        "num_items": 4,
        "promotions": [
            {"item_id": "item-9", "rank": 3},
            {"item_id": "no-1", "rank": 1},
            {"item_id": "item-1", "rank": 2},
        ],
    },
    {"promotions": [{"item_id": "item-9", "rank": 3}], "num_items": 5},
    {"history": ["item-1"], "validate_only": True, "promotions": [{"item_id": "item-9", "rank": 10}]},
    {"history": [], "validate_only": True, "filter": FILTER_OF_EIGHT, "exclude_item_ids": ["no-3"]},
]


@pytest.mark.parametrize("query", QUERIES)
async def test_both_answer_alike(
    client: httpx.AsyncClient, stub: Any, worker: Any, query: dict[str, Any]
) -> None:
    rest = await client.post("/recommend", json={"user_id": "ann", **query})
    assert rest.status_code == 200
    decoding = (
        {"decoding": getattr(pb, f"DECODING_{query['decoding'].upper()}")} if "decoding" in query else {}
    )
    answer = await stub.Recommend(ask(**query | decoding))
    assert as_rest(answer) == comparable(rest.json())
    asked = [
        {name: getattr(request, name) for name in request.__slots__ if name not in ("request_id", "seed")}
        for request in worker.requests
    ]
    assert asked[:1] == asked[1:]
    if "seed" in query:
        assert [request.seed for request in worker.requests] == [query["seed"]] * 2


@pytest.mark.parametrize("query", [QUERIES[0], QUERIES[3], QUERIES[4], {"history": []}, *QUERIES[-4:-2]])
async def test_a_stream_is_the_items_and_then_the_answer(stub: Any, query: dict[str, Any]) -> None:
    decoding = {"decoding": pb.DECODING_BEAM} if "decoding" in query else {}
    message = ask(**query | decoding)
    *items, last = [update async for update in stub.RecommendStream(message)]
    assert {update.WhichOneof("update") for update in items} == {"item"}
    assert [update.item for update in items] == list(last.done.items)
    assert as_rest(last.done) == as_rest(await stub.Recommend(message))


async def test_a_stream_that_breaks_says_why(stub: Any, worker: Any, recommender: Recommender) -> None:
    worker.error = QueueFullError("full", retry_after=2.5)
    code, status = await refused(anext(aiter(stub.RecommendStream(ask(history=["item-1"])))))
    retry = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry)
    assert (code, retry.retry_delay.ToMilliseconds()) == (grpc.StatusCode.RESOURCE_EXHAUSTED, 2_500)
    worker.error, worker.fails_late = UnavailableError("the worker stopped"), True
    updates = aiter(stub.RecommendStream(ask(history=["item-1"])))
    ranks = [(await anext(updates)).item.rank for _ in range(5)]
    assert ranks == [1, 2, 3, 4, 5]
    code, status = await refused(anext(updates))
    assert (code, status.message) == (grpc.StatusCode.UNAVAILABLE, "the worker stopped")
    counted = recommender.metrics.registry.get_sample_value
    labels = {"protocol": "grpc", "method": "recommend_stream", "status": "UNAVAILABLE"}
    assert counted("padrec_request_duration_seconds_count", labels) == 1


async def test_a_stream_that_is_left_stops_the_worker(stub: Any, worker: Any) -> None:
    worker.release.clear()
    call = stub.RecommendStream(ask(history=["item-1"]))
    waiting = asyncio.ensure_future(anext(aiter(call)))
    async with asyncio.timeout(30):
        await worker.started.wait()
        call.cancel()
        await worker.cancelled.wait()
    with pytest.raises(asyncio.CancelledError):
        await waiting


@pytest.mark.parametrize(
    "query",
    [
        {"num_items": 0},
        {"num_items": 51},
        {"num_items": 31},
        {"history": ["i"] * 13},
        {"history": ["item-1", ""]},
        {"exclude_item_ids": ["i"] * 26},
        {"user_id": ""},
        {"user_id": "x" * 257, "priority": 11},
        {"temperature": 0.001},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"seed": 2**63},
        {"filter": {}},
        {"filter": {"all": [{"attribute": "price", "op": "<", "value": [1]}]}},
        {"filter": {"attribute": "colour", "op": "==", "value": "red"}},
        {"filter": {"attribute": "price", "op": "==", "value": "red"}},
        {"filter": {"all": [{"attribute": "price", "op": "<", "value": 1}] * 65}},
        {"filter": nested(8)},
        {"filter": nested(40)},
        {"filter": {"attribute": "colour", "op": "==", "value": "red"}, "validate_only": True},
        {"num_items": 31, "validate_only": True},
        {"promotions": [{"item_id": "item-1", "rank": 0}]},
        {"promotions": [{"item_id": "item-1", "rank": 1}, {"item_id": "", "rank": 51}]},
        {"promotions": [{"item_id": f"item-{n}", "rank": 1 + n} for n in range(11)], "num_items": 20},
        {"promotions": [{"item_id": f"item-{n}", "rank": 1} for n in range(2)]},
        {"promotions": [{"item_id": "item-1", "rank": 1 + n} for n in range(2)]},
        {"promotions": [{"item_id": "item-1", "rank": 4}], "num_items": 3},
        {"after_recommendation_id": ""},
        {"after_recommendation_id": "x" * 257},
    ],
)
async def test_both_refuse_alike(client: httpx.AsyncClient, stub: Any, query: dict[str, Any]) -> None:
    code, status = await refused(stub.Recommend(ask(**query)))
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    if query.get("temperature") != query.get("temperature"):  # JSON has no such number
        assert fields_at_fault(status) == ["temperature"]
        return
    rest = (await client.post("/recommend", json={"user_id": "ann", **query})).json()
    assert fields_at_fault(status) == [error["field"] for error in rest["errors"]]
    assert status.message == rest["detail"]


async def test_pages_over_both(client: httpx.AsyncClient, stub: Any) -> None:
    first = await stub.Recommend(ask(history=["item-1"], num_items=4))
    page = {"history": ["item-1"], "num_items": 4, "after_recommendation_id": first.recommendation_id}
    rest = (await client.post("/recommend", json={"user_id": "ann", **page})).json()
    answer = await stub.Recommend(ask(**page))
    assert as_rest(answer) == comparable(rest)
    listed = {one.item.item_id for one in first.items}
    assert listed.isdisjoint(item["item_id"] for item in rest["items"])
    for other in (
        {"user_id": "bob"},
        {"after_recommendation_id": "0"},
        {"validate_only": True, "user_id": "x"},
    ):
        refusal = await client.post("/recommend", json={"user_id": "ann", **page, **other})
        code, status = await refused(stub.Recommend(ask(**page | other)))
        assert (refusal.status_code, code) == (404, grpc.StatusCode.NOT_FOUND)
        assert status.message == refusal.json()["detail"]
        assert status.message.startswith("after_recommendation_id: no such recommendation")


async def test_events_join_lists_over_both(client: httpx.AsyncClient, stub: Any) -> None:
    listed = (await client.post("/recommend", json={"user_id": "ann", "num_items": 4})).json()
    told = {
        "user_id": "ann",
        "item_id": listed["items"][2]["item_id"],
        "recommendation_id": listed["recommendation_id"],
    }
    events = [told, told | {"recommendation_id": "0"}, told | {"item_id": "no-1"}]
    message = pb.RecordEventsRequest(events=[pb.Event(**event) for event in events])
    answer = MessageToDict(await stub.RecordEvents(message), preserving_proto_field_name=True)
    assert answer == (await client.post("/events", json={"events": events})).json()
    assert answer == {"accepted": 3, "ignored_item_ids": ["no-1"], "joined": 1}
    text = (await client.get("/metrics")).text
    assert 'padrec_recommendation_events_total{rank="3"} 1.0' in text
    assert 'padrec_recommendation_items_total{rank="4"} 1.0' in text
    assert 'padrec_recommendation_items_total{rank="11+"} 0.0' in text


async def test_errors_are_no_larger_than_they_may_be(stub: Any) -> None:
    many = ask(exclude_item_ids=[""] * 900)
    code, status = await refused(stub.Recommend(many))
    assert (code, len(fields_at_fault(status))) == (grpc.StatusCode.INVALID_ARGUMENT, 10)
    long = {"attribute": "price", "op": "==", "value": "x" * 3_000}
    code, status = await refused(stub.Recommend(ask(filter=long)))
    assert (code, len(status.message) < 300) == (grpc.StatusCode.INVALID_ARGUMENT, True)


async def test_what_a_query_cannot_say_in_json(stub: Any) -> None:
    code, status = await refused(stub.Recommend(ask(decoding=7)))
    assert (code, fields_at_fault(status)) == (grpc.StatusCode.INVALID_ARGUMENT, ["decoding"])


@pytest.mark.parametrize(
    ("error", "code", "message", "retry_after"),
    [
        (QueueFullError("the queue is full", 0.25), "RESOURCE_EXHAUSTED", "the queue is full", 0.25),
        (UnavailableError("no worker answers", 2.5), "UNAVAILABLE", "no worker answers", 2.5),
        (DeadlineExceededError("the deadline passed"), "DEADLINE_EXCEEDED", "the deadline passed", None),
        (PadrecError("the worker answered INTERNAL: CUDA"), "INTERNAL", "internal error", None),
        (RuntimeError("secret"), "INTERNAL", "internal error", None),
    ],
)
async def test_what_the_worker_says(
    stub: Any, worker: Any, error: Exception, code: str, message: str, retry_after: float | None
) -> None:
    worker.error = error
    found, status = await refused(stub.Recommend(ask(history=["item-1"])))
    assert (found.name, status.message) == (code, message)
    delays = []
    for detail in status.details:
        retry = error_details_pb2.RetryInfo()
        assert detail.Unpack(retry)
        delays.append(retry.retry_delay.ToMilliseconds() / 1000)
    assert delays == ([] if retry_after is None else [retry_after])


async def test_events_history_and_deletion(client: httpx.AsyncClient, stub: Any) -> None:
    first = pb.Event(user_id="a/b ü", item_id="item-3", event_id="1")
    first.timestamp.FromJsonString("2026-01-01T00:00:00Z")
    second = pb.Event(user_id="a/b ü", item_id="no-1")
    second.timestamp.FromNanoseconds(1_500_000_000)
    answer = await stub.RecordEvents(pb.RecordEventsRequest(events=[first, second]))
    assert (answer.accepted, list(answer.ignored_item_ids)) == (2, ["no-1"])
    await stub.RecordEvents(pb.RecordEventsRequest(events=[first]))
    asked = pb.GetHistoryRequest(user_id="a/b ü")
    assert list((await stub.GetHistory(asked)).item_ids) == ["no-1", "item-3"]
    path = "/users/a%2Fb%20%C3%BC/history"
    assert (await client.get(path)).json() == {"user_id": "a/b ü", "item_ids": ["no-1", "item-3"]}
    await stub.DeleteHistory(pb.DeleteHistoryRequest(user_id="a/b ü"))
    assert list((await stub.GetHistory(asked)).item_ids) == []


async def test_events_out_of_range_name_their_field(client: httpx.AsyncClient, stub: Any) -> None:
    one = {"user_id": "ann", "item_id": "item-1"}
    for events in ([one, one | {"item_id": ""}], [one] * 4, []):
        rest = (await client.post("/events", json={"events": events})).json()
        message = pb.RecordEventsRequest(events=[pb.Event(**event) for event in events])
        code, status = await refused(stub.RecordEvents(message))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert status.message == rest["detail"]
    before = pb.Event(**one)
    before.timestamp.FromNanoseconds(-1)
    _, status = await refused(stub.RecordEvents(pb.RecordEventsRequest(events=[before])))
    assert fields_at_fault(status)[0] == "events.0.timestamp"
    for call, message in (
        (stub.GetHistory, pb.GetHistoryRequest()),
        (stub.DeleteHistory, pb.DeleteHistoryRequest(user_id="x" * 257)),
    ):
        assert fields_at_fault((await refused(call(message)))[1]) == ["user_id"]
    assert fields_at_fault((await refused(stub.GetItem(pb.GetItemRequest())))[1]) == ["item_id"]


async def test_an_item(client: httpx.AsyncClient, stub: Any) -> None:
    item = await stub.GetItem(pb.GetItemRequest(item_id="item-4"))
    told = MessageToDict(item, preserving_proto_field_name=True)
    assert told == (await client.get("/items/item-4")).json()
    code, status = await refused(stub.GetItem(pb.GetItemRequest(item_id="no-1")))
    assert (code, status.message) == (grpc.StatusCode.NOT_FOUND, "no such item: no-1")


async def test_a_batch_is_answered_one_by_one(client: httpx.AsyncClient, stub: Any, worker: Any) -> None:
    queries = [{"history": ["item-1"], "num_items": 2}, {"num_items": 31}, {"history": []}]
    rest = await client.post(
        "/recommend/batch", json={"requests": [{"user_id": "ann", **one} for one in queries]}
    )
    assert rest.status_code == 200
    answered, wrong, cold = rest.json()["results"]
    assert wrong["recommendation"] is answered["error"] is cold["error"] is None
    assert (wrong["error"]["status"], wrong["error"]["errors"][0]["field"]) == (422, "num_items")
    assert cold["recommendation"]["fallback"] == "cold_start"

    answer = await stub.BatchRecommend(pb.BatchRecommendRequest(requests=[ask(**one) for one in queries]))
    assert [result.WhichOneof("result") for result in answer.results] == ["response", "error", "response"]
    first, error, last = answer.results
    assert as_rest(first.response) == comparable(answered["recommendation"])
    assert as_rest(last.response) == comparable(cold["recommendation"])
    assert (error.error.code, error.error.message) == (code_pb2.INVALID_ARGUMENT, wrong["error"]["detail"])

    worker.error = QueueFullError("the queue is full")
    answer = await stub.BatchRecommend(pb.BatchRecommendRequest(requests=[ask(**one) for one in queries]))
    assert answer.results[0].error.code == code_pb2.RESOURCE_EXHAUSTED


async def test_a_batch_out_of_range(client: httpx.AsyncClient, stub: Any, worker: Any) -> None:
    for queries in ([], [{}] * 101, [{}, {"num_items": 51}]):
        requests = [{"user_id": "ann", **one} for one in queries]
        rest = await client.post("/recommend/batch", json={"requests": requests})
        code, status = await refused(
            stub.BatchRecommend(pb.BatchRecommendRequest(requests=[ask(**one) for one in queries]))
        )
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert (rest.status_code, rest.json()["detail"]) == (422, status.message)
    assert status.message.startswith("requests.1.num_items: ")
    worker.error = RuntimeError("secret")
    batch = {"requests": [{"user_id": "ann", "history": ["item-1"]}]}
    assert (await client.post("/recommend/batch", json=batch)).status_code == 500


async def test_without_the_history_store(
    make_recommender: Callable[[HistoryStore], Recommender], down_store: HistoryStore
) -> None:
    async with serving(make_recommender(down_store)) as (_, channel):
        stub = recommender_pb2_grpc.RecommenderStub(channel)
        answer = await stub.Recommend(ask())
        assert (answer.degraded, answer.fallback) == (True, pb.FALLBACK_HISTORY_UNAVAILABLE)
        code, status = await refused(stub.GetHistory(pb.GetHistoryRequest(user_id="ann")))
        assert (code, status.message) == (grpc.StatusCode.UNAVAILABLE, "history store: connection refused")


async def test_calls_are_counted(stub: Any, recommender: Recommender) -> None:
    await stub.Recommend(ask(history=[]))
    await refused(stub.Recommend(ask(num_items=0)))
    count = recommender.metrics.registry.get_sample_value
    name = "padrec_request_duration_seconds_count"
    for status in ("OK", "INVALID_ARGUMENT"):
        assert count(name, {"protocol": "grpc", "method": "recommend", "status": status}) == 1
