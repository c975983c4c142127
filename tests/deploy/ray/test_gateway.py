"""A replica as Serve uses it, before made-up workers and without Ray; real ones in tests/e2e/test_ray.py."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.config import GatewaySettings, HistorySettings, Settings
from service.errors import BundleError
from service.rpc.messages import WorkerDescription
from tests.deploy.ray.imports import gateway
from tests.deploy.ray.test_client import WRITTEN, Handle, answers
from tests.history.conftest import free_port

pytestmark = pytest.mark.usefixtures("unchanged_logging")


Start = Callable[..., Awaitable[Any]]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    """Starts replicas before a handle; they end with the test."""
    replicas = []

    async def started(bundle: Path, handle: Handle, **settings: Any) -> Any:
        replica = gateway.GatewayReplica.__new__(gateway.GatewayReplica)
        history = HistorySettings(url=f"sqlite:///{tmp_path}/history.sqlite3")
        await replica.__init__(
            str(bundle), Settings(gateway=GatewaySettings(**settings), history=history), handle
        )
        replicas.append(replica)
        return replica

    yield started
    for replica in replicas:
        await replica.end()


async def test_it_serves_and_ends(start: Start, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    port, description = free_port(), WorkerDescription("m", "c", 0, 1, 0, 1)
    handle = Handle(answers(description), answers(WRITTEN))
    replica = await start(make_bundle(tmp_path), handle, port=port)
    await replica.check_health()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        assert (await client.get("/health/ready")).status_code == 200
        body = {"user_id": "ann", "history": ["item-0"], "num_items": 2}
        answer = (await client.post("/recommend", json=body)).json()
    assert (len(answer["items"]), answer["model_version"]) == (2, "model")
    await replica.end()
    with pytest.raises(RuntimeError, match="ended"):
        await replica.check_health()


async def test_a_second_one_of_a_machine_listens_one_port_higher(
    start: Start, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle, ports = make_bundle(tmp_path), {"port": free_port(), "grpc_port": free_port()}
    for _ in range(2):
        await start(bundle, Handle(), **ports)
    async with httpx.AsyncClient() as client:
        for number in range(2):
            url = f"http://127.0.0.1:{ports['port'] + number}/health/live"
            assert (await client.get(url)).status_code == 200


async def test_another_bundle_is_another_application(
    start: Start, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    bundle, port = make_bundle(tmp_path), free_port()
    await start(bundle, Handle(), port=port)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        swap = {"bundle": str(bundle), "worker": "127.0.0.1:1"}
        assert (await client.post("/admin/bundle", json=swap)).status_code == 202
        while (said := (await client.get("/admin/bundle")).json()["swap"])["state"] != "failed":
            assert said["state"] in ("checking", "loading")
        assert "another application" in said["error"]


async def test_a_torn_bundle(start: Start, make_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    (bundle / "items.parquet").write_bytes(b"torn")
    with pytest.raises(BundleError, match=r"items\.parquet does not match"):
        await start(bundle, Handle(), port=0)
