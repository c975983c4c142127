import asyncio
import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from service.catalog.bundle import Bundle
from service.errors import PadrecError, UnavailableError
from service.processes import SUPERVISOR_PID
from service.rpc.client import WorkerClient
from service.types import DecodeRequest

SCRIPT = Path(__file__).with_name("fake_worker.py")
HOLD, BUG, DEVICE = 1, 2, 3
LONG = 60.0


def request(name: str, seed: int = 0) -> DecodeRequest:
    return DecodeRequest(name, history=(0,), num_items=2, seed=seed)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, which may be a coroutine function."""
    async with asyncio.timeout(LONG):
        while True:
            answer = condition()
            if await answer if asyncio.iscoroutine(answer) else answer:
                return
            await asyncio.sleep(0.02)


class Worker:
    """The process and a client of it."""

    def __init__(self, bundle: Bundle, *arguments: str, **environment: str) -> None:
        self.listen = f"unix:{bundle.path.parent / 'w'}"
        self.log_file = bundle.path.parent / "log"
        self.client = WorkerClient(self.listen, bundle.manifest.catalog_version)
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SCRIPT), str(bundle.path), *arguments],
                env={**os.environ, "PADREC_WORKER__LISTEN": self.listen, **environment},
                stderr=log,
            )

    def events(self) -> list[str]:
        lines = [json.loads(line) for line in self.log_file.read_text().splitlines() if line[:1] == "{"]
        return [line["event"] for line in lines if line["event"].startswith("worker ")]

    async def end(self) -> int:
        return await asyncio.to_thread(self.process.wait, LONG)


@pytest.fixture
def start(bundle: Bundle) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def started(*arguments: str, **environment: str) -> Worker:
        workers.append(Worker(bundle, *arguments, **environment))
        return workers[-1]

    yield started
    for worker in workers:
        worker.process.kill()
        worker.process.wait()


@pytest.fixture
async def worker(start: Callable[..., Worker]) -> AsyncIterator[Worker]:
    worker = start()
    await until(worker.client.ready)
    yield worker
    await worker.client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_lists_until_a_signal(worker: Worker, bundle: Bundle, number: signal.Signals) -> None:
    decoded, model_version = await worker.client.decode(request("a"), timeout=LONG)
    assert [item.row for item in decoded.items] == [0, 1]
    assert model_version == bundle.manifest.model_version
    description = await worker.client.describe(timeout=LONG)
    assert (description.num_running, description.num_waiting) == (0, 0)
    worker.process.send_signal(number)
    assert await worker.end() == 0
    assert worker.events() == ["worker starting", "worker ready", "worker draining", "worker stopped"]


async def test_what_runs_is_finished_while_draining(worker: Worker, bundle: Bundle) -> None:
    runs = asyncio.create_task(worker.client.decode(request("a", HOLD), timeout=LONG))

    async def is_running() -> bool:
        return (await worker.client.describe(timeout=LONG)).num_running == 1

    await until(is_running)
    waits = asyncio.create_task(worker.client.decode(request("b"), timeout=LONG))

    async def is_waiting() -> bool:
        return (await worker.client.describe(timeout=LONG)).num_waiting == 1

    await until(is_waiting)
    worker.process.terminate()
    with pytest.raises(UnavailableError):
        await waits
    assert not await worker.client.ready()
    bundle.path.with_name("release").touch()
    decoded, _ = await runs
    assert len(decoded.items) == 2
    assert await worker.end() == 0


async def test_a_bug_in_the_engine_costs_one_request(worker: Worker) -> None:
    with pytest.raises(PadrecError, match="INTERNAL: the engine failed to write this list"):
        await worker.client.decode(request("a", BUG), timeout=LONG)
    await worker.client.decode(request("b"), timeout=LONG)


async def test_a_lost_device_ends_the_process(worker: Worker) -> None:
    with pytest.raises(UnavailableError):
        await worker.client.decode(request("a", DEVICE), timeout=LONG)
    assert await worker.end() == 70


async def test_an_engine_that_hangs_ends_the_process(start: Callable[..., Worker]) -> None:
    worker = start(PADREC_WORKER__HANG_SECONDS="0.5")
    await until(worker.client.ready)
    await worker.client.decode(request("a"), timeout=LONG)
    with pytest.raises(UnavailableError):
        await worker.client.decode(request("b", HOLD), timeout=LONG)
    assert await worker.end() == 70
    await worker.client.close()


async def test_a_bad_request_is_refused(worker: Worker) -> None:
    with pytest.raises(PadrecError, match="INVALID_ARGUMENT: history names a row outside"):
        await worker.client.decode(DecodeRequest("a", history=(99,), num_items=1), timeout=LONG)


async def test_killed_and_started_again(worker: Worker, start: Callable[..., Worker], bundle: Bundle) -> None:
    running = [
        asyncio.create_task(worker.client.decode(request(name, HOLD), timeout=LONG)) for name in "abcdef"
    ]

    async def all_arrived() -> bool:
        description = await worker.client.describe(timeout=LONG)
        return description.num_running + description.num_waiting == len(running)

    await until(all_arrived)
    worker.process.kill()
    await worker.end()
    bundle.path.with_name("release").touch()
    again = start()  # finds a stale socket
    for outcome in await asyncio.gather(*running, return_exceptions=True):
        assert isinstance(outcome, tuple | UnavailableError)  # tried again, or told so
    await until(worker.client.ready)
    await worker.client.decode(request("g"), timeout=LONG)
    await again.client.close()


@pytest.mark.parametrize(
    ("build", "code", "said"), [("refuse", 2, "error: no such device: cuda:9"), ("fail", 1, "KeyError")]
)
async def test_an_engine_that_cannot_be_built(
    start: Callable[..., Worker], build: str, code: int, said: str
) -> None:
    worker = start(build)
    assert await worker.end() == code
    assert said in worker.log_file.read_text()
    assert "worker ready" not in worker.events()
    await worker.client.close()


async def test_a_signal_while_the_engine_is_built(start: Callable[..., Worker], bundle: Bundle) -> None:
    worker = start("hang")
    await until(bundle.path.with_name("building").exists)
    assert not await worker.client.ready()
    with pytest.raises(UnavailableError, match=r"unhealthy|starting"):
        await worker.client.decode(request("a"), timeout=LONG)
    worker.process.terminate()
    assert await worker.end() == 0
    await worker.client.close()


async def test_the_address_of_a_live_worker(worker: Worker, start: Callable[..., Worker]) -> None:
    second = start()
    assert await second.end() == 2
    assert "error: cannot listen on" in second.log_file.read_text()
    assert await worker.client.ready()
    await second.client.close()


async def test_a_torn_bundle(start: Callable[..., Worker], bundle: Bundle) -> None:
    (bundle.path / "items.parquet").write_bytes(b"torn")
    worker = start()
    assert await worker.end() == 2
    assert "items.parquet does not match its sha256" in worker.log_file.read_text()
    await worker.client.close()


async def test_metrics_over_http(start: Callable[..., Worker], bundle: Bundle) -> None:
    worker = start(PADREC_WORKER__METRICS_PORT="0")
    await until(worker.client.ready)
    await worker.client.decode(request("a"), timeout=LONG)
    lines = [json.loads(line) for line in worker.log_file.read_text().splitlines()]
    [url] = [line["url"] for line in lines if line["event"] == "metrics listening"]

    def scrape() -> str:
        with urllib.request.urlopen(url, timeout=LONG) as answer:
            return answer.read().decode()

    text = await asyncio.to_thread(scrape)
    assert 'padrec_worker_requests_total{outcome="ok"} 1.0' in text
    assert "padrec_queue_size 0.0" in text
    assert "padrec_worker_ready 1.0" in text
    assert f'model_version="{bundle.manifest.model_version}"}} 1.0' in text
    worker.process.terminate()
    assert await worker.end() == 0
    await worker.client.close()


async def test_it_ends_with_its_supervisor(start: Callable[..., Worker]) -> None:
    worker = start(**{SUPERVISOR_PID: "0"})  # as if another process were the parent now
    assert await worker.end() in (0, -signal.SIGTERM)
    await worker.client.close()
