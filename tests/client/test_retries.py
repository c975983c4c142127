"""What is tried again, when, and until when; time passes only where the client sleeps."""

import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from service.client import CallError, DeadlineError, InvalidRequestError, NotAllowedError, TryLaterError
from service.gateway.problems import MEDIA_TYPE
from tests.client.conftest import Script

EVENT = {"user_id": "ann", "item_id": "item-1"}
ITEM = {"item_id": "i", "title": "I", "attributes": {}}
LISTED = ITEM | {"rank": 1, "score": 0.5, "promoted": False}
LIST = {
    "recommendation_id": "r",
    "user_id": "ann",
    "items": [LISTED],
    "model_version": "m",
    "catalog_version": "c",
    "fallback": None,
    "degraded": False,
    "exhausted": False,
    "ignored_item_ids": [],
    "timings": dict.fromkeys(("history_ms", "queue_ms", "prefill_ms", "decode_ms", "total_ms"), 1.0),
    "speculation": None,
    "num_allowed_items": None,
}
CALLS: list[tuple[str, tuple[Any, ...], Any]] = [
    ("recommend", ("ann",), LIST),
    ("recommend_batch", ([{"user_id": "ann"}],), {"results": [{"recommendation": LIST}]}),
    ("record_events", ([EVENT],), {"accepted": 1, "ignored_item_ids": [], "joined": 0}),
    ("get_history", ("ann",), {"user_id": "ann", "item_ids": []}),
    ("delete_history", ("ann",), None),
    ("get_item", ("i",), ITEM),
]


def good(answer: Any) -> httpx.Response:
    return httpx.Response(204) if answer is None else httpx.Response(200, json=answer)


def problem(status: int, retry_after: str | None = None) -> httpx.Response:
    told = {"title": "Problem", "status": status, "detail": "not now"}
    headers = {"Content-Type": MEDIA_TYPE} | ({} if retry_after is None else {"Retry-After": retry_after})
    return httpx.Response(status, content=json.dumps(told), headers=headers)


def stream(
    *events: tuple[str, Any], broken: bool = False, takes: Callable[[], None] = lambda: None
) -> httpx.Response:
    """Events, before each of which time passes, and what ends them."""

    class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self):
            for name, data in events:
                takes()
                yield f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
            takes()
            if broken:
                raise httpx.ReadError("connection reset")

        async def __aiter__(self):
            for part in self:
                yield part

    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Body())


@pytest.mark.parametrize(("name", "args", "answer"), CALLS)
@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("connection reset"),
        httpx.RemoteProtocolError("disconnected"),
        429,
        503,
    ],
    ids=str,
)
async def test_calls_are_tried_again(
    script: Script, name: str, args: tuple[Any, ...], answer: Any, failure: Any
) -> None:
    told = 0 if isinstance(failure, Exception) else 1
    script.answers = [problem(failure, "1") if told else failure, httpx.ConnectError("refused"), good(answer)]
    await script.call(name, *args)
    assert script.slept == pytest.approx([told + 0.1, 0.2])
    assert len({(request.method, request.url) for request in script.requests}) == 1


@pytest.mark.parametrize("status", [307, 400, 401, 403, 404, 413, 422, 500, 502, 504])
async def test_what_would_fail_again_is_not_tried_again(script: Script, status: int) -> None:
    script.answers = [problem(status, "1")]
    with pytest.raises(CallError):
        await script.call("recommend", "ann")
    assert len(script.requests) == 1


async def test_a_certificate_that_is_not_trusted_is_not_tried_again(script: Script) -> None:
    error = httpx.ConnectError("certificate verify failed")
    error.__cause__ = ssl.SSLCertVerificationError("certificate verify failed")
    script.answers = [error]
    with pytest.raises(CallError, match="certificate verify failed") as caught:
        await script.call("recommend", "ann")
    assert type(caught.value) is CallError
    assert script.slept == []


async def test_waits_double_up_to_two_seconds_and_tries_are_counted(script: Script) -> None:
    script.answers = [httpx.ConnectError("refused")]
    with pytest.raises(TryLaterError, match="no padrec gateway answers at http://gateway: refused"):
        await script.call("recommend", "ann", client={"max_tries": 8, "deadline_ms": 60_000})
    assert script.slept == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 2, 2])
    assert len(script.requests) == 8
    script.slept.clear()
    with pytest.raises(TryLaterError):
        await script.call("recommend", "ann")
    assert script.slept == pytest.approx([0.1, 0.2, 0.4])


async def test_waits_are_anything_up_to_that(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("random.uniform", lambda low, high: low + 0.25 * (high - low))
    script.answers = [httpx.ConnectError("refused")]
    with pytest.raises(TryLaterError):
        await script.call("recommend", "ann")
    assert script.slept == pytest.approx([0.025, 0.05, 0.1])


@pytest.mark.parametrize("seconds", [2, 30])
async def test_it_never_sleeps_past_the_deadline(script: Script, seconds: int) -> None:
    script.answers = [problem(503, str(seconds))]
    with pytest.raises(TryLaterError, match="503 not now") as caught:
        await script.call("recommend", "ann", deadline_ms=3_000)
    assert caught.value.retry_after == seconds
    assert script.slept == pytest.approx([2.1] if seconds == 2 else [])


async def test_tries_take_time_from_the_deadline(script: Script) -> None:
    script.takes = 0.5
    script.answers = [problem(503, "1"), good(LIST)]
    await script.call("recommend", "ann", deadline_ms=3_000)
    sent = [json.loads(request.content)["deadline_ms"] for request in script.requests]
    assert sent[0] == 3_000
    assert sent[1] in (1_399, 1_400)


async def test_a_batch_is_given_no_more_than_what_is_left(script: Script) -> None:
    script.answers = [problem(503, "1"), good({"results": []})]
    requests = [{"user_id": "ann", "deadline_ms": 100}, {"user_id": "bob"}]
    await script.call("recommend_batch", requests, deadline_ms=2_000)
    sent = [
        [one["deadline_ms"] for one in json.loads(request.content)["requests"]] for request in script.requests
    ]
    assert sent[0] == [100, 2_000]
    assert sent[1][0] == 100
    assert sent[1][1] in (899, 900)


async def test_an_answer_that_comes_late_is_no_answer(script: Script) -> None:
    script.answers = [httpx.ReadTimeout("timed out")]
    with pytest.raises(DeadlineError, match="no answer from http://gateway in time"):
        await script.call("recommend", "ann")
    assert script.slept == []


async def test_events_are_sent_again_under_the_same_id(script: Script) -> None:
    script.answers = [httpx.ReadError("reset"), good({"accepted": 3, "ignored_item_ids": [], "joined": 0})]
    await script.call("record_events", [EVENT, EVENT | {"event_id": None}, EVENT | {"event_id": "own"}])
    first, second = (json.loads(request.content)["events"] for request in script.requests)
    assert first == second
    assert len({event["event_id"] for event in first}) == 3
    assert first[2]["event_id"] == "own"


async def test_a_stream_is_tried_again_before_its_first_item(script: Script) -> None:
    whole = stream(("item", LISTED), ("later", {}), ("done", LIST), ("later", {}))
    script.answers = [httpx.ConnectError("refused"), problem(429, "1"), stream(broken=True), stream(), whole]
    told = await script.call("recommend_stream", "ann", client={"max_tries": 5})
    assert [update.model_dump(mode="json", exclude_unset=True) for update in told] == [LISTED, LIST]
    assert script.slept == pytest.approx([0.1, 1.2, 0.4, 0.8])


@pytest.mark.parametrize("broken", [True, False])
async def test_a_stream_is_not_tried_again_after_its_first_item(script: Script, broken: bool) -> None:
    script.answers = [stream(("item", LISTED), broken=broken)]
    told: list[Any] = []
    with pytest.raises(TryLaterError):
        await script.call("recommend_stream", "ann", told=told)
    assert (len(told), len(script.requests), script.slept) == (1, 1, [])


async def test_a_stream_has_one_deadline(script: Script) -> None:
    script.answers = [stream(("item", LISTED), ("item", LISTED), ("done", LIST), takes=script.pass_time)]
    told: list[Any] = []
    with pytest.raises(DeadlineError):
        await script.call("recommend_stream", "ann", told=told, deadline_ms=5_000)
    assert len(told) == 2


async def test_a_list_that_is_whole_is_not_too_late(script: Script) -> None:
    script.answers = [stream(("item", LISTED), ("done", LIST), broken=True, takes=script.pass_time)]
    assert len(await script.call("recommend_stream", "ann", deadline_ms=7_000)) == 2
    assert len(script.requests) == 1


async def test_titles_of_a_stream_may_hold_any_line_break(script: Script) -> None:
    title = "a\u2028b\u0085c\x0bd\re\nf"
    script.answers = [stream(("item", LISTED | {"title": title}), ("done", LIST))]
    assert (await script.call("recommend_stream", "ann"))[0].title == title


@pytest.mark.parametrize(
    ("told", "seconds"),
    [
        ("7", 7.0),
        (format_datetime(datetime.now(UTC) - timedelta(hours=1), usegmt=True), 0.0),
        ("soon", None),
        ("-1", None),
        ("1 Jan 2020 00:00:00 -0000", None),
        (None, None),
    ],
)
async def test_retry_after_is_seconds_or_a_date(
    script: Script, told: str | None, seconds: float | None
) -> None:
    script.answers = [problem(503, told)]
    with pytest.raises(TryLaterError) as caught:
        await script.call("recommend", "ann", client={"max_tries": 1})
    assert caught.value.retry_after == seconds


async def test_a_date_to_come(script: Script) -> None:
    script.answers = [problem(503, format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True))]
    with pytest.raises(TryLaterError) as caught:
        await script.call("recommend", "ann")
    assert 3_500 < (caught.value.retry_after or 0) <= 3_600


async def test_whether_it_is_ready_is_asked_once(script: Script) -> None:
    for failure in (httpx.ConnectError("refused"), problem(503, "1"), httpx.ConnectTimeout("slow")):
        script.answers = [failure]
        assert not await script.call("ready")
    assert (len(script.requests), script.slept) == (3, [])
    script.answers = [problem(401)]
    with pytest.raises(NotAllowedError):
        await script.call("ready")


@pytest.mark.parametrize("name", ["recommend", "recommend_stream", "get_item"])
async def test_what_is_no_gateway(script: Script, name: str) -> None:
    for foreign in (httpx.Response(200, text="<html>"), httpx.Response(200, json={"hello": "world"})):
        script.answers = [foreign]
        with pytest.raises(CallError, match="what answers at http://gateway is no padrec gateway"):
            await script.call(name, "ann")
    script.answers = [httpx.Response(503, text="<html>", headers={"Retry-After": "9"})]
    with pytest.raises(TryLaterError, match=r"^503 Service Unavailable$") as caught:
        await script.call(name, "ann")
    assert (caught.value.problem, caught.value.retry_after) == (None, 9)
    script.answers = [httpx.Response(499)]
    with pytest.raises(InvalidRequestError, match=r"^499 "):
        await script.call(name, "ann")


@pytest.mark.parametrize("event", [("item", {}), ("done", LISTED), ("error", [])])
async def test_an_event_that_says_something_else(script: Script, event: tuple[str, Any]) -> None:
    script.answers = [stream(event)]
    with pytest.raises(CallError, match="is no padrec gateway"):
        await script.call("recommend_stream", "ann")
    assert len(script.requests) == 1


async def test_what_every_request_says_of_its_caller(script: Script) -> None:
    script.answers = [good(ITEM)]
    await script.call("get_item", "i", client={"api_key": "secret"})
    await script.call("get_item", "i")
    first, second = script.requests
    assert first.headers["authorization"] == "Bearer secret"
    assert "authorization" not in second.headers
    assert first.headers["user-agent"].startswith("padrec/0.")
