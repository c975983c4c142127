import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from service.errors import (
    DeadlineExceededError,
    InputError,
    PadrecError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from service.rpc.client import WorkerClient
from service.rpc.messages import WorkerDescription
from service.rpc.server import WorkerServer
from service.rpc.status import CatalogMismatchError
from service.types import DecodedItem, DecodedList, DecodeRequest

REQUEST = DecodeRequest("r1", history=(3, 1), num_items=2, excluded=(1,), temperature=0.7, top_p=0.9, seed=5)
DECODED = DecodedList("r1", (DecodedItem(4, 0.5), DecodedItem(2, 0.1)), False, 9, 3, 0.1, 0.2, 0.3)
DESCRIPTION = WorkerDescription("m1", "c1", num_running=1, max_batch=2, num_waiting=3, max_queue=4)


class Scripted:
    """Answers `decode` with the next of its outcomes; None answers when it is released."""

    def __init__(self, *outcomes: DecodedList | Exception | None) -> None:
        self.outcomes = list(outcomes)
        self.requests: list[DecodeRequest] = []
        self.deadline: float | None = None
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = asyncio.Event()

    async def decode(self, request: DecodeRequest, deadline: float | None) -> DecodedList:
        self.requests.append(request)
        self.deadline = deadline
        self.entered.set()
        outcome = self.outcomes.pop(0) if self.outcomes else DECODED
        if outcome is None:
            try:
                await self.release.wait()
                return DECODED
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    async def decode_stream(
        self, request: DecodeRequest, deadline: float | None
    ) -> AsyncIterator[tuple[DecodedItem, ...] | DecodedList]:
        if self.outcomes and isinstance(self.outcomes[0], UnavailableError):
            await self.decode(request, deadline)
        yield DECODED.items[:1]
        yield await self.decode(request, deadline)

    def describe(self) -> WorkerDescription:
        return DESCRIPTION


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path / 'w'}"


@pytest.fixture
async def server(address: str) -> AsyncIterator[WorkerServer]:
    server = WorkerServer(address)
    assert await server.start() == address
    yield server
    await server.stop(0)


@pytest.fixture
async def client(address: str) -> AsyncIterator[WorkerClient]:
    client = WorkerClient(address, "c1")
    yield client
    await client.close()


async def until_ready(client: WorkerClient) -> None:
    """The client learns of the worker's health a moment later."""
    async with asyncio.timeout(30):
        while not await client.ready():
            await asyncio.sleep(0.02)


async def test_a_list_and_the_model_that_wrote_it(server: WorkerServer, client: WorkerClient) -> None:
    handler = Scripted()
    await server.serve(handler)
    before = time.monotonic()
    assert await client.decode(REQUEST, timeout=30) == (DECODED, "m1")
    assert handler.requests == [REQUEST]
    assert handler.deadline is not None
    # gRPC rounds a timeout up on its way.
    assert before < handler.deadline <= time.monotonic() + 31


async def test_a_stream_of_items_and_then_the_list(server: WorkerServer, client: WorkerClient) -> None:
    handler = Scripted()
    await server.serve(handler)
    updates = [update async for update in client.decode_stream(REQUEST, timeout=30)]
    assert updates == [DECODED.items[0], (DECODED, "m1")]
    assert handler.requests == [REQUEST]


async def test_a_stream_is_tried_again_only_while_nothing_was_told(
    server: WorkerServer, client: WorkerClient
) -> None:
    await server.serve(Scripted(UnavailableError("draining"), DECODED))
    updates = [update async for update in client.decode_stream(REQUEST, timeout=30)]
    assert updates == [DECODED.items[0], (DECODED, "m1")]
    await server.serve(Scripted(QueueFullError("the queue is full", 3.5)))
    updates = client.decode_stream(REQUEST, timeout=30)
    assert await anext(updates) == DECODED.items[0]
    with pytest.raises(QueueFullError, match="the queue is full"):
        await anext(updates)


async def test_a_stream_that_is_left_is_cancelled_on_the_other_side(
    server: WorkerServer, client: WorkerClient
) -> None:
    handler = Scripted(None)
    await server.serve(handler)
    updates = client.decode_stream(REQUEST, timeout=30)
    assert await anext(updates) == DECODED.items[0]
    await asyncio.wait_for(handler.entered.wait(), 30)
    await updates.aclose()
    async with asyncio.timeout(30):
        await handler.cancelled.wait()


async def test_a_stream_of_another_catalogue_is_refused(server: WorkerServer, address: str) -> None:
    await server.serve(Scripted())
    client = WorkerClient(address, "c2")
    with pytest.raises(CatalogMismatchError, match=r"'c2'.*'c1'"):
        await anext(client.decode_stream(REQUEST, timeout=30))
    await client.close()


async def test_a_description(server: WorkerServer, client: WorkerClient) -> None:
    await server.serve(Scripted())
    assert await client.describe(timeout=30) == DESCRIPTION


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (QueueFullError("the queue is full", 3.5), QueueFullError),
        (DeadlineExceededError("too late"), DeadlineExceededError),
        (RequestError("history", "history is empty"), PadrecError),
        (PadrecError("the engine failed"), PadrecError),
    ],
)
async def test_errors_cross_the_wire(
    server: WorkerServer, client: WorkerClient, raised: PadrecError, expected: type[PadrecError]
) -> None:
    await server.serve(Scripted(raised))
    with pytest.raises(expected, match=str(raised)) as caught:
        await client.decode(REQUEST, timeout=30)
    assert type(caught.value) is expected
    assert getattr(caught.value, "retry_after", None) == getattr(raised, "retry_after", None)


async def test_an_error_that_nobody_meant_says_nothing_of_the_inside(
    server: WorkerServer, client: WorkerClient
) -> None:
    await server.serve(Scripted(KeyError("secret")))
    with pytest.raises(PadrecError, match="INTERNAL: internal error of the worker"):
        await client.decode(REQUEST, timeout=30)


async def test_another_catalogue_is_refused(server: WorkerServer, address: str) -> None:
    handler = Scripted()
    await server.serve(handler)
    client = WorkerClient(address, "c2")
    with pytest.raises(CatalogMismatchError, match=r"'c2'.*'c1'"):
        await client.decode(REQUEST, timeout=30)
    await client.close()
    assert handler.requests == []


async def test_an_unavailable_worker_is_tried_again(server: WorkerServer, client: WorkerClient) -> None:
    handler = Scripted(UnavailableError("draining"), UnavailableError("draining"), DECODED)
    await server.serve(handler)
    assert await client.decode(REQUEST, timeout=30) == (DECODED, "m1")
    assert len(handler.requests) == 3


async def test_no_worker_at_all(client: WorkerClient) -> None:
    with pytest.raises(UnavailableError):
        await client.decode(REQUEST, timeout=30)
    with pytest.raises(UnavailableError):
        await client.describe(timeout=30)
    assert not await client.ready()


async def test_the_deadline_ends_a_call_on_both_sides(server: WorkerServer, client: WorkerClient) -> None:
    handler = Scripted(None)
    await server.serve(handler)
    with pytest.raises(DeadlineExceededError):
        await client.decode(REQUEST, timeout=0.2)
    await asyncio.wait_for(handler.cancelled.wait(), 30)


async def test_cancelling_the_task_cancels_the_call(server: WorkerServer, client: WorkerClient) -> None:
    handler = Scripted(None)
    await server.serve(handler)
    task = asyncio.create_task(client.decode(REQUEST, timeout=60))
    await asyncio.wait_for(handler.entered.wait(), 30)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(handler.cancelled.wait(), 30)


async def test_ready_only_between_serve_and_drain(server: WorkerServer, client: WorkerClient) -> None:
    assert not await client.ready()
    with pytest.raises(UnavailableError, match=r"unhealthy|starting"):
        await client.decode(REQUEST, timeout=30)
    await server.serve(Scripted())
    await until_ready(client)
    await server.drain()
    assert not await client.ready()
    with pytest.raises(UnavailableError, match=r"unhealthy|draining"):
        await client.decode(REQUEST, timeout=30)


async def test_calls_that_were_taken_are_answered_while_draining(
    server: WorkerServer, client: WorkerClient
) -> None:
    handler = Scripted(None)
    await server.serve(handler)
    task = asyncio.create_task(client.decode(REQUEST, timeout=60))
    await asyncio.wait_for(handler.entered.wait(), 30)
    await server.drain()
    handler.release.set()
    assert await task == (DECODED, "m1")


async def test_calls_that_outlast_the_grace_are_told_so(server: WorkerServer, client: WorkerClient) -> None:
    handler = Scripted(None)
    await server.serve(handler)
    task = asyncio.create_task(client.decode(REQUEST, timeout=60))
    await asyncio.wait_for(handler.entered.wait(), 30)
    await server.stop(0)
    with pytest.raises(UnavailableError):
        await task


async def test_a_worker_that_was_started_again_is_found(address: str, client: WorkerClient) -> None:
    for _ in range(2):
        server = WorkerServer(address)
        await server.start()
        await server.serve(Scripted())
        await until_ready(client)
        assert await client.decode(REQUEST, timeout=30) == (DECODED, "m1")
        await server.stop(0)
        assert not await client.ready()


async def test_tcp_on_any_free_port() -> None:
    server = WorkerServer("127.0.0.1:0")
    address = await server.start()
    await server.serve(Scripted())
    client = WorkerClient(address, "c1")
    assert await client.decode(REQUEST, timeout=30) == (DECODED, "m1")
    second = WorkerServer(address)
    with pytest.raises(InputError, match=r"cannot listen on 127\.0\.0\.1:"):
        await second.start()
    await client.close()
    await server.stop(0)


async def test_a_socket_of_a_live_worker_is_not_taken(server: WorkerServer, address: str) -> None:
    second = WorkerServer(address)
    with pytest.raises(InputError, match="another process serves it"):
        await second.start()
    assert os.path.exists(address.removeprefix("unix:"))
