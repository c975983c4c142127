from typing import Any

import httpx

from service.catalog.bundle import Bundle
from service.gateway.recommender import Recommender


async def test_live_and_started(client: httpx.AsyncClient) -> None:
    for path in ("/health/live", "/health/startup"):
        answer = await client.get(path)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


async def test_ready_when_worker_and_store_answer(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health/ready")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "checks": {"worker": True, "history_store": True}}


async def test_not_ready_without_the_worker(client: httpx.AsyncClient, worker: Any) -> None:
    worker.is_ready = False
    answer = await client.get("/health/ready")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["detail"] == "not ready: worker"
    assert answer.json()["checks"] == {"worker": False, "history_store": True}
    assert (await client.get("/health/live")).status_code == 200


async def test_not_ready_without_the_store(degraded_client: httpx.AsyncClient) -> None:
    answer = await degraded_client.get("/health/ready")
    assert (answer.status_code, answer.json()["detail"]) == (503, "not ready: history_store")


async def ready_metrics(client: httpx.AsyncClient) -> tuple[bool, bool]:
    """Of the worker and of the history store."""
    text = (await client.get("/metrics")).text
    return tuple(f'padrec_ready{{check="{name}"}} 1.0' in text for name in ("worker", "history_store"))


async def test_metrics_tell_readiness_and_what_is_served(
    client: httpx.AsyncClient, degraded_client: httpx.AsyncClient, worker: Any, bundle: Bundle
) -> None:
    assert await ready_metrics(client) == (True, True)
    assert await ready_metrics(degraded_client) == (True, False)
    worker.is_ready = False
    assert await ready_metrics(client) == (False, True)
    text = (await client.get("/metrics")).text
    catalog, model = bundle.manifest.catalog_version, bundle.manifest.model_version
    assert f'padrec_bundle_info{{catalog_version="{catalog}",model_version="{model}"}} 1.0' in text


async def test_metrics_are_told_though_readiness_cannot_be(client: httpx.AsyncClient, worker: Any) -> None:
    async def fail() -> bool:
        raise KeyError("a bug")

    worker.ready = fail
    assert await ready_metrics(client) == (False, False)
    assert (await client.get("/metrics")).status_code == 200


async def test_not_ready_once_it_drains(client: httpx.AsyncClient, recommender: Recommender) -> None:
    recommender.is_draining = True
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()["detail"]) == (503, "not ready: draining")
    assert answer.json()["checks"] == {"worker": True, "history_store": True}
    assert (await client.get("/health/live")).status_code == 200


async def test_what_is_excluded_may_fail(degraded_client: httpx.AsyncClient, worker: Any) -> None:
    ready = "/health/ready?exclude=history_store"
    answer = await degraded_client.get(ready)
    assert (answer.status_code, answer.json()["checks"]) == (200, {"worker": True, "history_store": False})
    worker.is_ready = False
    answer = await degraded_client.get(ready)
    assert (answer.status_code, answer.json()["detail"]) == (503, "not ready: worker")
    assert (await degraded_client.get(f"{ready}&exclude=worker")).status_code == 200
    answer = await degraded_client.get("/health/ready?exclude=everything")
    assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "exclude.0")
