"""Both clients against the gateway itself."""

import asyncio
from contextlib import aclosing, closing
from datetime import UTC, datetime
from typing import Any

import pytest

from service.client import (
    AsyncClient,
    CallError,
    Client,
    DeadlineError,
    InvalidRequestError,
    NotFoundError,
    TryLaterError,
)
from service.errors import DeadlineExceededError, PadrecError, QueueFullError, UnavailableError
from service.gateway.answer import FieldError, Recommendation, RecommendedItem
from service.gateway.recommender import Recommender
from tests.client.conftest import CLIENTS, Calls, calling, calls_of
from tests.gateway.conftest import DownStore, MakeRecommender
from tests.gateway.http_server import served

ASK = {"history": ["item-1"]}
# Whatever an ID is, it is one part of a path.
IDS = ["a/b\nü", "..", ".", "a%2Fb", "?q=1#x", " ", "a..b//"]


async def test_a_list_is_the_one_that_was_asked_for(call: Calls, worker: Any) -> None:
    answer = await call(
        "recommend",
        "ann",
        num_items=3,
        history=["item-1", "no-1"],
        exclude_item_ids=["item-2"],
        exclude_seen=False,
        filter={"attribute": "price", "op": "<=", "value": 9},
        priority=2,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        explain=True,
        promotions=[{"item_id": "item-5", "rank": 2}],
    )
    assert isinstance(answer, Recommendation)
    assert (answer.user_id, len(answer.items), answer.ignored_item_ids) == ("ann", 3, ("no-1",))
    assert (answer.items[1].item_id, answer.items[1].promoted) == ("item-5", True)
    assert answer.explanation is not None
    [request] = worker.requests
    assert (request.priority, request.temperature, request.top_p, request.seed) == (2, 0.5, 0.9, 7)
    assert request.allowed is not None


async def test_pages_and_checks(call: Calls) -> None:
    first = await call("recommend", "ann", num_items=2, deadline_ms=9_000, **ASK)
    second = await call(
        "recommend", "ann", num_items=2, after_recommendation_id=first.recommendation_id, **ASK
    )
    assert not {item.item_id for item in first.items} & {item.item_id for item in second.items}
    checked = await call("recommend", "ann", validate_only=True, **ASK)
    assert (checked.items, checked.num_allowed_items) == ((), 19)
    with pytest.raises(NotFoundError, match="after_recommendation_id"):
        await call("recommend", "ann", after_recommendation_id="none", **ASK)


async def test_the_service_is_given_what_is_left_of_the_deadline(call: Calls, worker: Any) -> None:
    await call("recommend", "ann", **ASK)
    await call("recommend", "ann", deadline_ms=700, **ASK)
    await call("recommend_batch", [ASK | {"user_id": "ann", "deadline_ms": 300}], deadline_ms=700)
    for timeout, longest in zip(worker.timeouts, (5, 0.7, 0.3), strict=True):
        assert timeout <= longest


@pytest.mark.parametrize("history", [["item-1"], []])
async def test_a_stream_is_the_items_and_then_the_list(call: Calls, history: list[str]) -> None:
    *items, whole = await call("recommend_stream", "ann", history=history, num_items=4)
    assert isinstance(whole, Recommendation)
    assert all(isinstance(item, RecommendedItem) for item in items)
    assert tuple(items) == whole.items
    assert len(items) == 4


async def test_a_stream_that_breaks_has_told_its_items(call: Calls, worker: Any) -> None:
    worker.error, worker.fails_late = UnavailableError("the worker stopped"), True
    told: list[Any] = []
    with pytest.raises(TryLaterError, match="503 the worker stopped"):
        await call("recommend_stream", "ann", told=told, **ASK)
    assert len(told) == 5
    assert len(worker.requests) == 1


async def test_a_stream_that_is_left_is_closed(recommender: Recommender) -> None:
    async with served(recommender) as (host, port):
        url = f"http://{host}:{port}"

        def first_of() -> str:
            with Client(url) as client, closing(client.recommend_stream("ann", **ASK)) as updates:
                return next(item.item_id for item in updates if isinstance(item, RecommendedItem))

        first = await asyncio.to_thread(first_of)
        async with AsyncClient(url) as client, aclosing(client.recommend_stream("ann", **ASK)) as updates:
            async for update in updates:
                assert isinstance(update, RecommendedItem)
                assert update.item_id == first
                break


async def test_of_a_batch_each_has_its_answer(call: Calls) -> None:
    asked = [ASK | {"user_id": "ann", "num_items": 2}, ASK | {"user_id": "bob", "num_items": 31}]
    first, second = (await call("recommend_batch", asked)).results
    assert (first.recommendation.user_id, len(first.recommendation.items), first.error) == ("ann", 2, None)
    assert (second.recommendation, second.error.status) == (None, 422)
    assert second.error.errors[0].field == "num_items"


@pytest.mark.parametrize("user_id", IDS)
async def test_events_and_histories(call: Calls, user_id: str) -> None:
    # A tenth of the time is for the list to be remembered, which a busy machine takes some of.
    shown = await call("recommend", user_id, deadline_ms=9_000, **ASK)
    taken = {"user_id": user_id, "item_id": shown.items[0].item_id, "timestamp": 2.0}
    events = [taken | {"recommendation_id": shown.recommendation_id}]
    events += [{"user_id": user_id, "item_id": "no-1", "timestamp": datetime.fromtimestamp(1, UTC)}]
    told = await call("record_events", events)
    assert (told.accepted, told.ignored_item_ids, told.joined) == (2, ("no-1",), 1)
    history = await call("get_history", user_id)
    assert (history.user_id, history.item_ids) == (user_id, ("no-1", taken["item_id"]))
    assert await call("delete_history", user_id) is None
    assert (await call("get_history", user_id)).item_ids == ()


async def test_the_same_event_twice_is_two_events_but_for_its_id(call: Calls) -> None:
    event = {"user_id": "ann", "item_id": "item-1", "timestamp": 1.0}
    await call("record_events", [event, event])
    await call("record_events", [event | {"event_id": "1"}] * 2)
    assert (await call("get_history", "ann")).item_ids == ("item-1",) * 3


async def test_an_item(call: Calls) -> None:
    item = await call("get_item", "item-4")
    assert (item.item_id, item.title, item.attributes["price"]) == ("item-4", "Item 4", 4.0)
    for item_id in IDS:
        with pytest.raises(NotFoundError) as caught:
            await call("get_item", item_id)
        assert caught.value.problem.detail == f"no such item: {item_id}"


async def test_whether_it_is_ready(call: Calls, worker: Any) -> None:
    assert await call("ready")
    worker.is_ready = False
    assert not await call("ready")


@pytest.mark.parametrize(
    ("wrong", "fields"),
    [
        ({"num_items": 0, "seed": -1}, ["num_items", "seed"]),
        ({"num_items": 31}, ["num_items"]),
        ({"filter": {"attribute": "color", "op": "==", "value": 1}}, ["filter"]),
        ({"deadline_ms": 9_100}, ["deadline_ms"]),
        ({"temperature": float("nan")}, ["temperature"]),
        ({"k": 1}, ["k"]),
    ],
)
async def test_a_wrong_request_names_its_fields(
    call: Calls, wrong: dict[str, Any], fields: list[str]
) -> None:
    for name in ("recommend", "recommend_stream"):
        with pytest.raises(InvalidRequestError) as caught:
            await call(name, "ann", **ASK | wrong)
        assert [one.field for one in caught.value.fields] == fields
        assert isinstance(caught.value.fields[0], FieldError)
        assert str(caught.value).startswith(f"422 {fields[0]}: ")


async def test_a_body_that_is_too_long(call: Calls) -> None:
    with pytest.raises(InvalidRequestError, match="413 the body is longer than 4096 bytes") as caught:
        await call("recommend", "ann", history=["x" * 5_000])
    assert caught.value.fields == ()


@pytest.mark.parametrize("user_id", ["\ud800", 7])
async def test_what_cannot_be_sent(call: Calls, user_id: Any) -> None:
    for name in ("recommend", "get_history"):
        with pytest.raises(InvalidRequestError):
            await call(name, user_id)


@pytest.mark.parametrize(
    ("error", "kind_of", "retry_after"),
    [
        (QueueFullError("the queue is full", 0.2), TryLaterError, 1.0),
        (UnavailableError("no worker answers", 2.5), TryLaterError, 3.0),
        (DeadlineExceededError("the deadline passed"), DeadlineError, None),
        (PadrecError("secret"), CallError, None),
    ],
)
async def test_what_the_service_says(
    kind: str,
    recommender: Recommender,
    worker: Any,
    error: PadrecError,
    kind_of: type[CallError],
    retry_after: float | None,
) -> None:
    worker.error = error
    async with calling(kind, recommender, max_tries=1) as call:
        with pytest.raises(kind_of) as caught:
            await call("recommend", "ann", **ASK)
    assert type(caught.value) is kind_of
    assert getattr(caught.value, "retry_after", None) == retry_after
    assert "secret" not in str(caught.value)


async def test_no_answer_in_time(call: Calls, worker: Any) -> None:
    worker.release.clear()
    for name in ("recommend", "recommend_stream"):
        with pytest.raises(DeadlineError, match=r"no answer from http://.* in time"):
            await call(name, "ann", deadline_ms=50, **ASK)
    with pytest.raises(DeadlineError, match="the deadline passed"):
        await call("recommend", "ann", deadline_ms=0, **ASK)
    worker.release.set()


@pytest.mark.parametrize("name", ["recommend", "recommend_stream"])
async def test_an_answer_that_stops_half_way_is_left(kind: str, name: str) -> None:
    is_left = asyncio.Event()

    async def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 1000\r\n\r\n"
        writer.write(f"{head}event: item\n".encode())
        await reader.read()
        writer.close()
        await writer.wait_closed()
        is_left.set()

    async with await asyncio.start_server(begin, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(DeadlineError, match="in time"):
            await calls_of(CLIENTS[kind](f"http://127.0.0.1:{port}"))(name, "ann", deadline_ms=100)
        await asyncio.wait_for(is_left.wait(), 10)


async def test_without_the_history_store(kind: str, make_recommender: MakeRecommender) -> None:
    async with calling(kind, make_recommender(DownStore()), max_tries=1) as call:
        assert (await call("recommend", "ann")).degraded
        for name, given in (("get_history", "ann"), ("record_events", [{"user_id": "a", "item_id": "b"}])):
            with pytest.raises(TryLaterError, match="503 history store: connection refused"):
                await call(name, given)
