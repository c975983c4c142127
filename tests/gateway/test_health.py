from typing import Any

import httpx


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
