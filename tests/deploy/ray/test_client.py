"""The gateway's side, before made-up replicas; real ones in tests/e2e/test_ray.py."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import aclosing
from typing import Any

import pytest

from deploy.ray.answers import Refusal
from service.errors import (
    DeadlineExceededError,
    PadrecError,
    QueueFullError,
    UnavailableError,
)
from service.rpc.messages import WorkerDescription
from service.rpc.status import CatalogMismatchError
from service.types import DecodedItem, DecodedList, DecodeRequest
from tests.deploy.ray.imports import client, exceptions, serve_exceptions

LONG = 60.0
REQUEST = DecodeRequest("a", history=(0,), num_items=2)
ITEMS = (DecodedItem(1, 0.5), DecodedItem(2, 0.25))
WRITTEN = (DecodedList("a", ITEMS, False, 1, 0, 0.1, 0.2), "model")

Answer = Callable[[], Awaitable[Any]]


def answers(value: Any) -> Answer:
    async def answer() -> Any:
        return value

    return answer


def raises(error: Exception) -> Answer:
    async def answer() -> Any:
        raise error

    return answer


async def never() -> Any:
    await asyncio.Event().wait()


class Call:
    """What a handle's `remote` returns: taken by a replica, then answered, both as the test says."""

    def __init__(self, taken: Answer, answer: Answer, updates: list[Any]) -> None:
        self._taken, self._answer, self._updates = taken, answer, updates
        self.is_cancelled = False

    def cancel(self) -> None:
        self.is_cancelled = True

    async def _to_object_ref(self) -> None:
        await self._taken()

    _to_object_ref_gen = _to_object_ref

    def __await__(self) -> Generator[Any, None, Any]:
        return self._answer().__await__()

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self._updates:
            return await self._answer()
        return self._updates.pop(0)


class Handle:
    """Of a deployment whose calls end in turn as the test says; `calls` are those so far."""

    def __init__(self, *ends: Answer, taken: Answer = answers(None), updates: tuple[Any, ...] = ()) -> None:
        self._ends, self._taken, self._updates = list(ends), taken, list(updates)
        self.calls: list[Call] = []
        self.asked: list[tuple[Any, ...]] = []

    def options(self, *, stream: bool) -> "Handle":
        assert stream
        return self

    def __getattr__(self, name: str) -> "Handle":
        assert name in ("decode", "decode_stream", "describe")
        return self

    def remote(self, *arguments: Any) -> Call:
        self.asked.append(arguments)
        self.calls.append(Call(self._taken, self._ends.pop(0), self._updates))
        return self.calls[-1]


def workers(handle: Handle) -> Any:
    return client.ServeWorkers(handle, "catalogue", lambda: (("x-request-id", "r"),))


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_LAST_BACKOFF", 0.001)
    monkeypatch.setattr(client, "_FIRST_BACKOFF", 0.001)


async def test_what_a_replica_is_told_and_answers() -> None:
    handle = Handle(answers(WRITTEN))
    assert await workers(handle).decode(REQUEST, timeout=LONG) == WRITTEN
    [(request, version, left, headers)] = handle.asked
    assert (request, version, headers) == (REQUEST, "catalogue", {"x-request-id": "r"})
    assert LONG - 10 < left <= LONG
    assert not handle.calls[0].is_cancelled


def died() -> Answer:
    return raises(exceptions.ActorDiedError())


async def test_a_request_whose_replica_died_is_sent_to_another() -> None:
    handle = Handle(died(), answers(Refusal.of(UnavailableError("draining"))), answers(WRITTEN))
    assert await workers(handle).decode(REQUEST, timeout=LONG) == WRITTEN
    assert len(handle.calls) == 3


async def test_not_for_ever() -> None:
    handle = Handle(*[died()] * 6)
    with pytest.raises(UnavailableError, match="does not answer"):
        await workers(handle).decode(REQUEST, timeout=LONG)
    assert len(handle.calls) == 5


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (answers(Refusal.of(QueueFullError("full", 2.5))), QueueFullError),
        (raises(serve_exceptions.BackPressureError(9, 8)), QueueFullError),
        (answers(Refusal.of(DeadlineExceededError("late"))), DeadlineExceededError),
        (answers(Refusal.of(CatalogMismatchError("other rows"))), CatalogMismatchError),
        (answers(Refusal.of(PadrecError("a bug"))), PadrecError),
    ],
)
async def test_a_refusal_is_final(end: Answer, error: type[PadrecError]) -> None:
    handle = Handle(end)
    with pytest.raises(error) as refusal:
        await workers(handle).decode(REQUEST, timeout=LONG)
    assert type(refusal.value) is error
    with pytest.raises(error):
        await anext(workers(Handle(end)).decode_stream(REQUEST, timeout=LONG))


async def test_the_deadline_cancels_what_a_replica_does() -> None:
    handle = Handle(never)
    with pytest.raises(DeadlineExceededError):
        await workers(handle).decode(REQUEST, timeout=0.05)
    assert handle.calls[0].is_cancelled


async def test_a_caller_who_leaves_cancels_what_a_replica_does() -> None:
    handle = Handle(never)
    task = asyncio.create_task(workers(handle).decode(REQUEST, timeout=LONG))
    while not handle.calls:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert handle.calls[0].is_cancelled


async def test_nobody_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_PATIENCE", 0.05)
    handle = Handle(never, taken=never)
    with pytest.raises(UnavailableError, match="no worker takes requests"):
        await workers(handle).decode(REQUEST, timeout=LONG)
    assert handle.calls[0].is_cancelled
    assert len(handle.calls) == 1
    with pytest.raises(DeadlineExceededError):
        await workers(Handle(never, taken=never)).decode(REQUEST, timeout=0.01)


async def told(handle: Handle) -> list[Any]:
    return [update async for update in workers(handle).decode_stream(REQUEST, timeout=LONG)]


async def test_a_stream_tells_items_then_the_list() -> None:
    handle = Handle(answers(None), updates=(ITEMS[:1], ITEMS[1:], WRITTEN))
    assert await told(handle) == [*ITEMS, WRITTEN]
    assert not handle.calls[0].is_cancelled


async def test_a_stream_is_asked_again_until_it_has_told_something() -> None:
    handle = Handle(died(), answers(WRITTEN))
    assert await told(handle) == [WRITTEN]
    with pytest.raises(UnavailableError):
        await told(Handle(died(), updates=(ITEMS[:1],)))


async def test_a_stream_that_is_left_is_cancelled() -> None:
    handle = Handle(never, updates=(ITEMS[:1],))
    async with aclosing(workers(handle).decode_stream(REQUEST, timeout=LONG)) as updates:
        assert await anext(updates) == ITEMS[0]
    assert handle.calls[0].is_cancelled


async def test_ready_is_a_replica_that_says_what_it_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    description = WorkerDescription("model", "catalogue", 0, 1, 0, 1)
    assert await workers(Handle(answers(description))).describe(timeout=LONG) == description
    assert await workers(Handle(answers(description))).ready()
    monkeypatch.setattr(client, "READY_TIMEOUT", 0.05)
    for handle in (
        Handle(died()),
        Handle(never),
        Handle(never, taken=never),
        Handle(answers(Refusal.of(UnavailableError("draining")))),
    ):
        assert not await workers(handle).ready()
