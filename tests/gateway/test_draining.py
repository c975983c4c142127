"""How a gateway ends: first it says so, then it takes nothing new, then it answers what it took."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.catalog.bundle import Bundle
from service.gateway.grpc import SERVICE
from service.rpc.messages import WorkerDescription
from service.rpc.server import WorkerServer
from service.types import DecodedItem, DecodedList, DecodeRequest
from tests.gateway.test_server import RUN, settings_of

LONG = 60.0
# Enough for the few calls that a test makes meanwhile.
DELAY = 8.0


class Held:
    """A worker's handler, which answers one request when it is released and the others at once."""

    def __init__(self, bundle: Bundle) -> None:
        self._manifest = bundle.manifest
        self.entered, self.release = asyncio.Event(), asyncio.Event()

    async def decode(self, request: DecodeRequest, deadline: float | None) -> DecodedList:
        if not self.entered.is_set():
            self.entered.set()
            await self.release.wait()
        items = tuple(DecodedItem(row, 0.5) for row in range(request.num_items))
        return DecodedList(request.request_id, items, False, 1, 0, 0.1, 0.2)

    def describe(self) -> WorkerDescription:
        return WorkerDescription(self._manifest.model_version, self._manifest.catalog_version, 0, 1, 0, 1)


class Gateway:
    """The process, and where it is asked."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.url = self.address = ""

    async def event(self) -> dict[str, str]:
        assert self._process.stderr is not None
        told: dict[str, str] = json.loads(await asyncio.wait_for(self._process.stderr.readline(), LONG))
        return told

    def terminate(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    async def ends(self) -> int:
        return await asyncio.wait_for(self._process.wait(), LONG)

    async def ready(self) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url) as client:
            return await client.get("/health/ready")

    async def recommend(self) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=LONG) as client:
            asked = {"user_id": "ann", "history": ["item-1"], "num_items": 2, "deadline_ms": 60_000}
            return await client.post("/recommend", json=asked)


@pytest.fixture
def bundle(tmp_path: Path, make_bundle: Callable[..., Path]) -> Bundle:
    return Bundle.open(make_bundle(tmp_path))


@pytest.fixture
async def worker(bundle: Bundle, tmp_path: Path) -> AsyncIterator[Held]:
    held, server = Held(bundle), WorkerServer(f"unix:{tmp_path}/worker.sock")
    await server.start()
    await server.serve(held)
    yield held
    await server.stop(0)


@pytest.fixture
async def gateway(bundle: Bundle, tmp_path: Path, worker: Held) -> AsyncIterator[Gateway]:
    settings = settings_of(tmp_path, grpc_port=0, drain_delay_seconds=DELAY)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN, str(bundle.path), settings.model_dump_json(), stderr=subprocess.PIPE
    )
    gateway = Gateway(process)
    gateway.address = (await gateway.event())["address"]
    gateway.url = (await gateway.event())["url"]
    yield gateway
    if process.returncode is None:
        process.kill()
        await process.wait()


async def test_it_says_so_then_refuses_then_answers_and_exits_0(gateway: Gateway, worker: Held) -> None:
    async with asyncio.timeout(LONG):
        while (await gateway.ready()).status_code != 200:
            await asyncio.sleep(0.02)
    async with grpc.aio.insecure_channel(gateway.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        running = asyncio.create_task(gateway.recommend())
        await asyncio.wait_for(worker.entered.wait(), LONG)

        gateway.terminate()
        assert (await gateway.event())["event"] == "gateway draining"
        not_ready = await gateway.ready()
        assert (not_ready.status_code, not_ready.json()["detail"]) == (503, "not ready: draining")
        told = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE))
        assert told.status == health_pb2.HealthCheckResponse.NOT_SERVING
        # Whoever has not heard of it is still answered.
        late = await gateway.recommend()
        assert (late.status_code, len(late.json()["items"])) == (200, 2)

    async with asyncio.timeout(LONG):
        while True:
            try:
                await gateway.ready()
            except httpx.TransportError:
                break
            await asyncio.sleep(0.1)
    assert not running.done()
    worker.release.set()
    answer = await running
    assert (answer.status_code, len(answer.json()["items"])) == (200, 2)
    assert await gateway.ends() == 0
    assert (await gateway.event())["event"] == "gateway stopped"
