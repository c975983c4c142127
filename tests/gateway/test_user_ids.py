"""Whatever is called, and however it fails, no log line names a user; unless the settings ask for it."""

import asyncio
import io
import json
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, redirect_stderr, suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import structlog

from service.config import LogSettings
from service.errors import PadrecError, QueueFullError
from service.gateway.access import CALLS
from service.gateway.keys import KeyRing, add_key
from service.gateway.recommender import Recommender
from service.history.store import HistoryStore
from service.rpc.generated.padrec.v1 import recommender_pb2 as pb
from service.rpc.generated.padrec.v1 import recommender_pb2_grpc
from service.telemetry.logs import configure_logging
from tests.gateway.conftest import http_client
from tests.gateway.grpc_calls import ask, serving
from tests.gateway.http_server import served

USER = "ann-4711"
# What cannot be read, as well; every one names the user.
BAD = [
    {"user_id": USER, "num_items": 0},
    {"user_id": USER, "history": [USER] * 13},
    {"user_id": USER, "nonsense": USER},
    {"user_id": USER * 100},
    {"user_id": [USER]},
    {"user_id": USER, "filter": {"attribute": USER, "op": "==", "value": USER}},
]

Call = Callable[[], Awaitable[Any]]


class Calls:
    """Every call of the use case for one user, over both protocols, by its name."""

    def __init__(self, client: httpx.AsyncClient, channel: grpc.aio.Channel) -> None:
        stub = recommender_pb2_grpc.RecommenderStub(channel)
        query = {"user_id": USER, "history": ["item-1"]}
        message = ask(user_id=USER, history=["item-1"])
        event = {"user_id": USER, "item_id": "item-1", "event_id": USER}
        history = f"/users/{USER}/history"
        self.client, self.stub = client, stub
        self.rest: dict[str, Call] = {
            "recommend": lambda: client.post("/recommend", json=query),
            "recommend_stream": lambda: client.post("/recommend/stream", json=query),
            "recommend_batch": lambda: client.post("/recommend/batch", json={"requests": [query, {"user_id": USER}]}),
            "record_events": lambda: client.post("/events", json={"events": [event]}),
            "get_history": lambda: client.get(history),
            "delete_history": lambda: client.delete(history),
            "get_item": lambda: client.get(f"/items/{USER}"),
        }  # fmt: skip
        self.grpc: dict[str, Call] = {
            "recommend": lambda: stub.Recommend(message),
            "recommend_stream": lambda: all_of(stub.RecommendStream(message)),
            "recommend_batch": lambda: stub.BatchRecommend(
                pb.BatchRecommendRequest(requests=[message, ask(user_id=USER)])
            ),
            "record_events": lambda: stub.RecordEvents(pb.RecordEventsRequest(events=[pb.Event(**event)])),
            "get_history": lambda: stub.GetHistory(pb.GetHistoryRequest(user_id=USER)),
            "delete_history": lambda: stub.DeleteHistory(pb.DeleteHistoryRequest(user_id=USER)),
            "get_item": lambda: stub.GetItem(pb.GetItemRequest(item_id=USER)),
        }

    async def all(self) -> None:
        """Whatever becomes of them."""
        assert set(self.rest) == set(self.grpc) == {name for name, _, _ in CALLS}
        for name in self.rest:
            await quietly(self.rest[name]())
            await quietly(self.grpc[name]())

    async def wrong(self) -> None:
        """Calls that cannot be read."""
        for body in BAD:
            await self.client.post("/recommend/batch", json={"requests": [body]})
            answers = [
                await self.client.post("/recommend", json=body),
                await self.client.post("/events", json={"events": [body]}),
                await self.client.post("/recommend", content=json.dumps(body)[:-1].encode()),
            ]
            assert all(answer.status_code == 422 for answer in answers)
        await self.client.get(f"/users/{USER * 100}/history")
        await self.client.get(f"/nowhere/{USER}")
        await self.client.post("/events", content=USER.encode() * 2_000)
        for message in (
            ask(user_id=USER, num_items=0),
            ask(user_id=USER * 100),
            ask(user_id=USER, history=[""]),
        ):
            await quietly(self.stub.Recommend(message))
        await quietly(self.stub.DeleteHistory(pb.DeleteHistoryRequest(user_id=USER * 100)))
        await quietly(self.stub.Recommend(ask(user_id=USER, exclude_item_ids=[USER * 20] * 100)))


async def all_of(call: Any) -> None:
    async for _ in call:
        pass


async def quietly(call: Awaitable[Any]) -> None:
    with suppress(grpc.aio.AioRpcError):
        await call


@asynccontextmanager
async def calling(recommender: Recommender) -> AsyncIterator[Calls]:
    async with AsyncExitStack() as stack:
        host, port = await stack.enter_async_context(served(recommender))
        client = httpx.AsyncClient(base_url=f"http://{host}:{port}", timeout=30)
        await stack.enter_async_context(client)
        _, channel = await stack.enter_async_context(serving(recommender))
        yield Calls(client, channel)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that is logged, at debug."""
    log = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    with redirect_stderr(log):
        configure_logging(LogSettings(level="debug", format="json"))
    for client in ("httpx", "httpcore"):  # the caller's own
        logging.getLogger(client).setLevel("WARNING")
    yield log
    for client in ("httpx", "httpcore"):
        logging.getLogger(client).setLevel("NOTSET")
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def logged(log: io.StringIO, *events: str) -> str:
    """All that was written, in which these stand."""
    text = log.getvalue()
    for event in events:
        assert event in text
    return text


async def test_calls_that_succeed_and_calls_that_cannot_be_read(
    recommender: Recommender, log: io.StringIO
) -> None:
    async with calling(recommender) as calls:
        await calls.all()
        await calls.wrong()
    text = logged(log, '"method": "delete_history"', '"method": "get_item"', '"status": "INVALID_ARGUMENT"')
    assert USER not in text
    assert "user_id" not in text


@pytest.mark.parametrize(
    "error", [QueueFullError("full"), PadrecError("the worker answered INTERNAL"), RuntimeError("unexpected")]
)
async def test_a_worker_that_fails(
    recommender: Recommender, worker: Any, error: Exception, log: io.StringIO
) -> None:
    worker.error = error
    async with calling(recommender) as calls:
        await calls.all()
    text = logged(log, '"method": "recommend"')
    assert ("Traceback" in text) == isinstance(error, RuntimeError)
    assert USER not in text


async def test_callers_that_go_away(recommender: Recommender, worker: Any, log: io.StringIO) -> None:
    worker.release.clear()
    async with calling(recommender) as calls:
        for make in (call for protocol in (calls.rest, calls.grpc) for call in list(protocol.values())[:2]):
            call = asyncio.ensure_future(make())
            await worker.started.wait()
            call.cancel()
            await asyncio.wait_for(worker.cancelled.wait(), 10)
            worker.started.clear(), worker.cancelled.clear()
    assert USER not in logged(log, '"method": "recommend"')


@pytest.mark.parametrize("store_is", ["down", "torn", "lost"])
async def test_a_history_store_that_fails(
    make_recommender: Callable[[HistoryStore], Recommender],
    store: HistoryStore,
    down_store: HistoryStore,
    tmp_path: Path,
    store_is: str,
    log: io.StringIO,
) -> None:
    if store_is == "torn":
        with closing(sqlite3.connect(tmp_path / "history.sqlite3")) as other:
            other.execute("DROP TABLE event_ids")
            other.execute("DROP TABLE events")
    if store_is == "lost":
        down_store.get = down_store.append = _lost  # type: ignore[method-assign]
    async with calling(make_recommender(store if store_is == "torn" else down_store)) as calls:
        await calls.all()
    assert USER not in logged(
        log, '"method": "get_history"', "history store failed" if store_is != "lost" else ""
    )


async def _lost(_user: object) -> Any:
    raise ConnectionResetError("by peer")


async def test_callers_without_a_key(recommender: Recommender, tmp_path: Path, log: io.StringIO) -> None:
    add_key(tmp_path / "keys.json", "shop", ["read"], 1, 1)
    keys = KeyRing(tmp_path / "keys.json")
    async with http_client(recommender, keys=keys) as client, serving(recommender, keys=keys) as (_, channel):
        calls = Calls(client, channel)
        await calls.all()
    assert USER not in logged(log, '"status": 401')


async def test_the_line_of_a_request_names_its_users_where_that_is_asked_for(
    recommender: Recommender, log: io.StringIO
) -> None:
    with redirect_stderr(log):
        configure_logging(LogSettings(level="debug", format="json", user_ids=True))
    async with calling(recommender) as calls:
        await calls.all()
    lines = [json.loads(line) for line in logged(log).splitlines() if line.startswith("{")]
    told = [(line["method"], line["user_ids"]) for line in lines if line["event"] == "request"]
    users = {"get_item": [], "recommend_batch": [USER] * 2}
    assert told == [(name, users.get(name, [USER])) for name in calls.rest for _ in range(2)]
    assert all(USER not in json.dumps(line) for line in lines if line["event"] != "request")


async def test_the_lines_of_a_request_name_its_key(
    recommender: Recommender, tmp_path: Path, log: io.StringIO
) -> None:
    key = add_key(tmp_path / "keys.json", "shop", ["admin"])
    keys = KeyRing(tmp_path / "keys.json")
    async with http_client(recommender, keys=keys) as client:
        for _ in range(2):
            await client.get("/items/item-1", headers={"x-api-key": key})
    async with serving(recommender, keys=keys) as (_, channel):
        stub = recommender_pb2_grpc.RecommenderStub(channel)
        await stub.GetItem(pb.GetItemRequest(item_id="item-1"), metadata=(("x-api-key", key),))
        await quietly(stub.GetItem(pb.GetItemRequest(item_id="item-1")))
    lines = [json.loads(line) for line in logged(log).splitlines() if line.startswith("{")]
    assert [line["key"] for line in lines if line["event"] == "request"] == ["shop"] * 3
