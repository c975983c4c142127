"""A replica as Serve uses it, with a made-up engine and without Ray; real ones in tests/e2e/test_ray.py."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from deploy.ray.answers import Refusal
from service.config import Settings, WorkerSettings
from service.types import DecodedItem, DecodedList, DecodeRequest
from tests.deploy.ray.imports import worker
from tests.history.conftest import free_port
from tests.worker.conftest import FakeEngine, bundle

__all__ = ["bundle"]  # the fixture

LONG = 60.0
EXITS: list[int] = []


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    made = FakeEngine(permits=threading.Semaphore(100))
    monkeypatch.setattr(worker, "build_engine", lambda _bundle, _settings: made)
    monkeypatch.setattr(worker, "end_process", EXITS.append)
    EXITS.clear()
    return made


async def start(bundle: Any, **settings: Any) -> Any:
    replica = worker.WorkerReplica.__new__(worker.WorkerReplica)
    await replica.__init__(str(bundle.path), Settings(worker=WorkerSettings(device="cpu", **settings)))
    return replica


@pytest.fixture
async def replica(engine: FakeEngine, bundle: Any, unchanged_logging: None) -> AsyncIterator[Any]:
    made = await start(bundle)
    yield made
    engine.permits.release(100)
    await made.end()


def asked(bundle: Any, name: str = "a", **fields: Any) -> tuple[Any, ...]:
    request = DecodeRequest(name, **{"history": (0,), "num_items": 2} | fields)
    return request, bundle.manifest.catalog_version, LONG, {"x-request-id": "r"}


async def test_a_list_and_its_stream(replica: Any, bundle: Any) -> None:
    written, version = await replica.decode(*asked(bundle))
    assert [item.row for item in written.items] == [0, 1]
    assert version == bundle.manifest.model_version
    updates = [update async for update in replica.decode_stream(*asked(bundle))]
    assert updates[0] == (DecodedItem(0, 0.5),)
    assert isinstance(updates[-1][0], DecodedList)
    assert updates[-1][1] == bundle.manifest.model_version


async def test_what_it_serves(replica: Any, bundle: Any) -> None:
    assert (await replica.describe()).catalog_version == bundle.manifest.catalog_version
    await replica.check_health()


async def test_refusals_are_answers(replica: Any, bundle: Any) -> None:
    bad = asked(bundle, history=(99,))
    refusal = await replica.decode(*bad)
    assert refusal.code == "INVALID_ARGUMENT"
    assert [update async for update in replica.decode_stream(*bad)] == [refusal]
    request, _, timeout, headers = asked(bundle)
    assert (await replica.decode(request, "other", timeout, headers)).code == "FAILED_PRECONDITION"
    late = await replica.decode(request, bundle.manifest.catalog_version, -1.0, headers)
    assert late.code == "DEADLINE_EXCEEDED"


async def test_a_call_that_is_cancelled_drops_its_request(
    replica: Any, engine: FakeEngine, bundle: Any
) -> None:
    engine.permits = threading.Semaphore(0)
    call = asyncio.create_task(replica.decode(*asked(bundle, "left")))
    while ("add", ["left"]) not in engine.log:
        await asyncio.sleep(0.01)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    engine.permits.release(100)
    while ("drop", ["left"]) not in engine.log:
        await asyncio.sleep(0.01)


async def test_its_end_finishes_what_runs(replica: Any, engine: FakeEngine, bundle: Any) -> None:
    engine.permits = threading.Semaphore(0)
    runs = asyncio.create_task(replica.decode(*asked(bundle)))
    while ("add", ["a"]) not in engine.log:
        await asyncio.sleep(0.01)
    end = asyncio.create_task(replica.end())
    while not isinstance(await replica.describe(), Refusal):
        await asyncio.sleep(0.01)
    assert await replica.decode(*asked(bundle, "b")) == Refusal("UNAVAILABLE", "the worker is draining")
    engine.permits.release(100)
    await end
    assert len((await runs)[0].items) == 2
    with pytest.raises(RuntimeError, match="ended"):
        await replica.check_health()
    assert EXITS == []


async def test_a_lost_device_ends_the_process(replica: Any, engine: FakeEngine, bundle: Any) -> None:
    engine.errors["round"].append(RuntimeError("CUDA error: the device is gone"))
    refusal = await replica.decode(*asked(bundle))
    assert refusal.code == "UNAVAILABLE"
    while not EXITS:
        await asyncio.sleep(0.01)
    assert EXITS == [70]


@pytest.mark.usefixtures("unchanged_logging")
async def test_an_engine_that_cannot_be_built(bundle: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(_bundle: Any, _settings: Any) -> Any:
        raise KeyError("no such device")

    monkeypatch.setattr(worker, "build_engine", build)
    with pytest.raises(KeyError, match="no such device"):
        await start(bundle)


@pytest.mark.usefixtures("unchanged_logging", "engine")
async def test_metrics_of_each_at_a_port_of_its_own(bundle: Any) -> None:
    port = free_port()
    replicas = [await start(bundle, metrics_port=port) for _ in range(2)]
    async with httpx.AsyncClient() as client:
        for own in (port, port + 1):
            assert "padrec_worker_ready 1.0" in (await client.get(f"http://127.0.0.1:{own}/metrics")).text
    for replica in replicas:
        await replica.end()
