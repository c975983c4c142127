"""A worker behind a front of its own; as a process, in tests/worker/test_process.py."""

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from service.catalog.bundle import Bundle
from service.config import WorkerSettings
from service.types import DecodeRequest
from service.worker.handler import DecodeHandler
from service.worker.worker import Worker


class Front:
    """Notes what it is told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.handler: DecodeHandler | None = None
        self.is_serving = asyncio.Event()

    async def start(self) -> str:
        self.told.append("start")
        return "here"

    async def serve(self, handler: DecodeHandler) -> None:
        self.told.append("serve")
        self.handler = handler
        self.is_serving.set()

    async def drain(self) -> None:
        self.told.append("drain")

    async def stop(self, grace: float) -> None:
        self.told.append("stop")


def worker_of(bundle: Bundle, build: Callable[..., Any], front: Front) -> Worker:
    return Worker(bundle, WorkerSettings(device="cpu"), build, front)


async def test_from_start_to_stop(bundle: Bundle, fake_engine: Callable[..., Any]) -> None:
    front, engine = Front(), fake_engine(permits=threading.Semaphore(100))
    worker = worker_of(bundle, lambda *_: engine, front)
    life = asyncio.create_task(worker.live())
    await front.is_serving.wait()
    assert front.handler is not None
    written = await front.handler.decode(DecodeRequest("a", history=(0,), num_items=2), None)
    assert [item.row for item in written.items] == [0, 1]
    worker.stop()
    await life
    assert front.told == ["start", "serve", "drain", "stop"]
    assert not worker.has_failed


async def test_an_engine_that_cannot_be_built(bundle: Bundle) -> None:
    def build(*_: Any) -> Any:
        raise KeyError("no such device")

    front = Front()
    worker = worker_of(bundle, build, front)
    with pytest.raises(KeyError, match="no such device"):
        await worker.live()
    assert front.told == ["start", "drain", "stop"]
    assert not worker.has_failed  # its input is wrong, and a new process would not help


async def test_an_engine_that_fails_while_it_serves(bundle: Bundle, fake_engine: Callable[..., Any]) -> None:
    front, engine = Front(), fake_engine()
    worker = worker_of(bundle, lambda *_: engine, front)
    life = asyncio.create_task(worker.live())
    await front.is_serving.wait()
    engine.errors["round"].append(RuntimeError("CUDA error: the device is gone"))
    assert front.handler is not None
    with pytest.raises(Exception, match="device failed"):
        await front.handler.decode(DecodeRequest("a", history=(0,), num_items=2), None)
    await life
    assert worker.has_failed
