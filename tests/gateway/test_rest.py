import json
from typing import Any

import httpx
import pytest

from service.errors import (
    CancelledByCallerError,
    DeadlineExceededError,
    PadrecError,
    QueueFullError,
    UnavailableError,
)
from service.history.store import HistoryStore

ASK = {"user_id": "ann", "history": ["item-1"]}


def check_problem(answer: httpx.Response, status: int, detail: str) -> dict[str, Any]:
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    body = answer.json()
    assert body["type"] == "about:blank"
    assert body["title"] == httpx.codes(status).name.replace("_", " ").title() or status in (413, 422)
    assert body["status"] == status
    assert detail in body["detail"]
    return body


async def test_a_recommendation(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/recommend", json={"user_id": "ann", "history": ["item-1", "no-1"], "num_items": 2}
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert list(body) == [
        "recommendation_id",
        "user_id",
        "items",
        "model_version",
        "catalog_version",
        "fallback",
        "degraded",
        "exhausted",
        "ignored_item_ids",
        "timings",
        "speculation",
        "explanation",
        "num_allowed_items",
    ]
    assert body["ignored_item_ids"] == ["no-1"]
    assert body["fallback"] is None
    fields = {"item_id", "title", "attributes", "rank", "score", "promoted"}
    assert [set(item) for item in body["items"]] == [fields] * 2
    assert set(body["timings"]) == {"history_ms", "queue_ms", "prefill_ms", "decode_ms", "total_ms"}
    assert body["speculation"] == {
        "rounds": 3,
        "accepted_length": 4.667,
        "accepted_length_without_forced": 3.333,
    }


def events_of(answer: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    assert answer.headers["content-type"].startswith("text/event-stream")
    parts = [part.split("\n", 1) for part in answer.text.split("\n\n") if part]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in parts]


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"history": []},
        {"decoding": "beam"},
        {"num_items": 1},
        {"promotions": [{"item_id": f"item-{n}", "rank": rank} for n, rank in ((9, 1), (7, 2), (8, 10))]},
        {"history": [], "promotions": [{"item_id": "item-9", "rank": 2}]},
        {"num_items": 1, "promotions": [{"item_id": "item-9", "rank": 1}]},
        {"num_items": 30, "promotions": [{"item_id": "item-9", "rank": 29}]},
        {"validate_only": True},
    ],
)
async def test_a_stream_is_the_items_and_then_the_answer(
    client: httpx.AsyncClient, more: dict[str, Any]
) -> None:
    expected = (await client.post("/recommend", json=ASK | more)).json()
    answer = await client.post("/recommend/stream", json=ASK | more)
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-cache"
    *items, (name, done) = events_of(answer)
    assert [name for name, _ in items] == ["item"] * len(expected["items"])
    assert [item for _, item in items] == expected["items"]
    assert name == "done"
    different = {"recommendation_id", "timings"}
    assert {key: done[key] for key in done if key not in different} == {
        key: expected[key] for key in expected if key not in different
    }


async def test_a_stream_that_cannot_begin_has_a_status(client: httpx.AsyncClient, worker: Any) -> None:
    body = check_problem(await client.post("/recommend/stream", json={}), 422, "user_id")
    assert body["errors"][0]["field"] == "user_id"
    check_problem(await client.post("/recommend/stream", json=ASK | {"num_items": 31}), 422, "num_items")
    check_problem(
        await client.post("/recommend/stream", json=ASK | {"after_recommendation_id": "0"}), 404, "no such"
    )
    worker.error = QueueFullError("full", retry_after=2.4)
    first = {"promotions": [{"item_id": "item-9", "rank": 1}]}
    answer = await client.post("/recommend/stream", json=ASK | first)
    check_problem(answer, 429, "full")
    assert answer.headers["retry-after"] == "3"


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (UnavailableError("the worker stopped"), 503, "the worker stopped"),
        (KeyError("secret"), 500, "internal error"),
    ],
)
async def test_a_stream_that_breaks_says_why(
    client: httpx.AsyncClient, worker: Any, error: Exception, status: int, detail: str
) -> None:
    worker.error, worker.fails_late = error, True
    *items, (name, problem) = events_of(await client.post("/recommend/stream", json=ASK))
    assert [name for name, _ in items] == ["item"] * 5
    assert name == "error"
    assert (problem["status"], problem["detail"]) == (status, detail)


async def test_pages_may_come_as_streams(client: httpx.AsyncClient) -> None:
    listed, after = [], {}
    for _ in range(3):
        answer = await client.post("/recommend/stream", json=ASK | after)
        *items, (_, done) = events_of(answer)
        listed += [item["item_id"] for _, item in items]
        after = {"after_recommendation_id": done["recommendation_id"]}
    assert len(set(listed)) == len(listed) == 19
    assert (items, done["exhausted"]) == ([], True)


async def test_an_explanation(client: httpx.AsyncClient) -> None:
    body = (await client.post("/recommend", json=ASK | {"explain": True, "num_items": 2})).json()
    told = body["explanation"]
    assert [len(one["tokens"]) for one in told["rounds"]] == [1, 4]
    assert told["rounds"][1]["tokens"][1] == {
        "slot": 1,
        "code": 2,
        "parent": -1,
        "drafted": True,
        "forced": False,
        "accepted": False,
        "item_id": None,
        "title": None,
    }
    first = body["items"][0]
    completing = told["rounds"][1]["tokens"][2]
    assert (completing["item_id"], completing["title"]) == (first["item_id"], first["title"])
    assert (told["accepted_tokens"], told["rejected_tokens"], told["forced_tokens"]) == (1, 1, 1)
    assert (sum(told["candidates_per_slot"]), sum(told["accepted_per_slot"])) == (2, 1)
    for more in ({"history": []}, {"decoding": "beam"}, {"explain": False}):
        body = (await client.post("/recommend", json=ASK | {"explain": True} | more)).json()
        assert body["explanation"] is None


async def test_an_empty_history_is_a_cold_start(client: httpx.AsyncClient) -> None:
    body = (await client.post("/recommend", json={"user_id": "ann", "history": []})).json()
    assert body["fallback"] == "cold_start"
    assert body["speculation"] is None
    assert [item["score"] for item in body["items"]] == [None] * 10


async def test_events_history_and_deletion(client: httpx.AsyncClient, worker: Any) -> None:
    events = [
        {"user_id": "a/b\nü", "item_id": "item-3", "timestamp": "2026-01-01T00:00:00Z", "event_id": "1"},
        {"user_id": "a/b\nü", "item_id": "no-1", "timestamp": 1.5},
    ]
    answer = await client.post("/events", json={"events": events})
    assert (answer.status_code, answer.json()) == (
        200,
        {"accepted": 2, "ignored_item_ids": ["no-1"], "joined": 0},
    )
    await client.post("/events", json={"events": events[:1]})
    path = "/users/a%2Fb%0A%C3%BC/history"
    assert (await client.get(path)).json() == {"user_id": "a/b\nü", "item_ids": ["no-1", "item-3"]}
    body = (await client.post("/recommend", json={"user_id": "a/b\nü"})).json()
    assert body["ignored_item_ids"] == ["no-1"]
    assert len(worker.requests) == 1
    answer = await client.delete(path)
    assert (answer.status_code, answer.content) == (204, b"")
    assert (await client.get(path)).json()["item_ids"] == []


async def test_an_item(client: httpx.AsyncClient) -> None:
    body = (await client.get("/items/item-4")).json()
    assert body == {"item_id": "item-4", "title": "Item 4", "attributes": {"price": 4.0, "brand": "Brand 1"}}
    check_problem(await client.get("/items/a/b"), 404, "no such item: a/b")


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("num_items", {"num_items": 0}),
        ("num_items", {"num_items": 51}),
        ("num_items", {"num_items": 31}),
        ("history", {"history": ["i"] * 13}),
        ("history.1", {"history": ["item-1", 7]}),
        ("exclude_item_ids", {"exclude_item_ids": ["i"] * 26}),
        ("deadline_ms", {"deadline_ms": 9_001}),
        ("user_id", {"user_id": ""}),
        ("k", {"k": 10}),
    ],
)
async def test_a_query_out_of_range_names_its_field(
    client: httpx.AsyncClient, field: str, fields: dict[str, Any]
) -> None:
    body = check_problem(await client.post("/recommend", json=ASK | fields), 422, f"{field}: ")
    assert body["title"].startswith("Unprocessable")
    assert [error["field"] for error in body["errors"]] == [field]
    assert body["detail"] == f"{field}: {body['errors'][0]['message']}"


async def test_every_wrong_field_is_listed(client: httpx.AsyncClient) -> None:
    body = check_problem(
        await client.post("/recommend", json={"num_items": 0}), 422, "user_id: Field required"
    )
    assert [error["field"] for error in body["errors"]] == ["user_id", "num_items"]


async def test_events_out_of_range_name_their_field(client: httpx.AsyncClient) -> None:
    one = {"user_id": "ann", "item_id": "item-1"}
    answer = await client.post("/events", json={"events": [one, one | {"timestamp": "noon"}]})
    check_problem(answer, 422, "events.1.timestamp: ")
    check_problem(await client.post("/events", json={"events": [one] * 4}), 422, "events: at most 3")
    check_problem(await client.post("/events", json={"events": []}), 422, "events: ")
    assert (await client.get("/users/ann/history")).json()["item_ids"] == []


@pytest.mark.parametrize("path", ["/recommend", "/events"])
async def test_a_body_that_is_no_json_object(client: httpx.AsyncClient, path: str) -> None:
    json = {"Content-Type": "application/json"}
    check_problem(await client.post(path, content=b'{"user_id": ', headers=json), 422, "body: not valid JSON")
    check_problem(await client.post(path, content=b"[]", headers=json), 422, "body: send a JSON object")
    check_problem(await client.post(path), 422, "body: ")
    check_problem(await client.post(path, data={"user_id": "ann"}), 422, "Content-Type: application/json")
    for content in (b"\xff\xfe{}", b"[" * 3_000):
        check_problem(await client.post(path, content=content, headers=json), 422, "body: not valid JSON")


async def test_a_user_id_that_is_too_long(client: httpx.AsyncClient) -> None:
    check_problem(await client.get(f"/users/{'x' * 257}/history"), 422, "user_id: ")


@pytest.mark.parametrize(
    ("error", "status", "detail", "retry_after"),
    [
        (QueueFullError("the queue is full", 0.2), 429, "the queue is full", "1"),
        (UnavailableError("no worker answers", 2.5), 503, "no worker answers", "3"),
        (DeadlineExceededError("the deadline passed"), 504, "the deadline passed", None),
        (PadrecError("the worker answered INTERNAL: CUDA"), 500, "internal error", None),
    ],
)
async def test_what_the_worker_says(
    client: httpx.AsyncClient,
    worker: Any,
    error: Exception,
    status: int,
    detail: str,
    retry_after: str | None,
) -> None:
    worker.error = error
    answer = await client.post("/recommend", json=ASK)
    check_problem(answer, status, detail)
    assert answer.headers.get("retry-after") == retry_after


async def test_a_call_that_the_caller_gave_up(client: httpx.AsyncClient, worker: Any) -> None:
    worker.error = CancelledByCallerError("the caller went away")
    assert (await client.post("/recommend", json=ASK)).status_code == 499


async def test_an_unexpected_error_tells_nothing(client: httpx.AsyncClient, worker: Any) -> None:
    worker.error = RuntimeError("secret")
    answer = await client.post("/recommend", json=ASK)
    check_problem(answer, 500, "internal error")
    assert "secret" not in answer.text


async def test_without_the_history_store(degraded_client: httpx.AsyncClient) -> None:
    body = (await degraded_client.post("/recommend", json={"user_id": "ann"})).json()
    assert (body["degraded"], body["fallback"]) == (True, "history_unavailable")
    assert len(body["items"]) == 10
    body = (await degraded_client.post("/recommend", json=ASK)).json()
    assert (body["degraded"], body["fallback"]) == (False, None)
    event = {"user_id": "ann", "item_id": "item-1"}
    for answer in (
        await degraded_client.post("/events", json={"events": [event]}),
        await degraded_client.get("/users/ann/history"),
        await degraded_client.delete("/users/ann/history"),
    ):
        check_problem(answer, 503, "history store: connection refused")
        assert answer.headers["retry-after"] == "1"


async def test_paths_and_methods_that_do_not_exist(client: httpx.AsyncClient) -> None:
    check_problem(await client.get("/nowhere"), 404, "Not Found")
    answer = await client.get("/recommend")
    check_problem(answer, 405, "Method Not Allowed")
    assert answer.headers["allow"] == "POST"


async def test_metrics_count_calls_by_route(client: httpx.AsyncClient, store: HistoryStore) -> None:
    await client.post("/recommend", json=ASK)
    await client.post("/recommend", json={})
    await client.get("/users/ann/history")
    await client.get("/nowhere")
    answer = await client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    for labels in (
        'method="recommend",protocol="rest",status="200"',
        'method="recommend",protocol="rest",status="422"',
        'method="get_history",protocol="rest",status="200"',
        'method="unknown",protocol="rest",status="404"',
    ):
        assert f"padrec_request_duration_seconds_count{{{labels}}} 1.0" in answer.text
    assert "ann" not in answer.text


async def test_the_documentation_needs_no_other_server(client: httpx.AsyncClient) -> None:
    page = await client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css"):
        assert asset in page.text
        assert (await client.get(f"/static-offline-docs/{asset}")).status_code == 200
