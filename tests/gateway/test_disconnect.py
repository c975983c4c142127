import asyncio
from typing import Any

import pytest
from starlette.requests import Request
from starlette.types import Message

from service.config import GatewaySettings
from service.errors import CancelledByCallerError
from service.gateway.disconnect import while_connected
from service.gateway.recommender import Recommender
from tests.gateway.http_server import served


class Caller:
    """A request whose caller goes away when told."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()
        self.request = Request({"type": "http"}, self._receive)

    async def _receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}


async def test_the_result_of_the_work() -> None:
    async def work() -> str:
        await asyncio.sleep(0)
        return "done"

    assert await while_connected(Caller().request, work()) == "done"


async def test_an_error_of_the_work() -> None:
    async def work() -> None:
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        await while_connected(Caller().request, work())


@pytest.mark.parametrize("who", ["the caller goes away", "the server stops"])
async def test_the_work_is_cancelled(who: str) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    caller = Caller()
    waiting = asyncio.create_task(while_connected(caller.request, work()))
    await started.wait()
    if who == "the caller goes away":
        caller.gone.set()
        with pytest.raises(CancelledByCallerError):
            await waiting
    else:
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    assert cancelled.is_set()


async def test_closing_the_connection_cancels_the_decode(recommender: Recommender, worker: Any) -> None:
    worker.release.clear()
    async with served(recommender) as (host, port):
        body = b'{"user_id": "ann", "history": ["item-1"]}'
        head = "POST /recommend HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
        _, writer = await asyncio.open_connection(host, port)
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await worker.started.wait()
        assert not worker.cancelled.is_set()
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(worker.cancelled.wait(), 10)


async def test_an_idle_connection_is_closed_when_the_settings_say_so(recommender: Recommender) -> None:
    recommender.settings = GatewaySettings(idle_seconds=1)
    async with served(recommender) as (host, port):
        reader, writer = await asyncio.open_connection(host, port)
        for _ in range(2):
            writer.write(b"GET /health/live HTTP/1.1\r\nHost: gateway\r\n\r\n")
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        await asyncio.wait_for(reader.read(), 10)  # to the end
        writer.close()
