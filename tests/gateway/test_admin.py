from pathlib import Path
from typing import Any

import httpx
import pytest

from service.catalog.bundle import Bundle
from service.gateway.keys import KeyRing, add_key
from service.gateway.recommender import Recommender
from tests.gateway.conftest import app_of


def client_from(
    recommender: Recommender,
    host: str,
    base_url: str = "http://127.0.0.1:8000",
    keys: KeyRing | None = None,
) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app_of(recommender, keys), client=(host, 50_000))
    return httpx.AsyncClient(transport=transport, base_url=base_url)


async def test_what_is_served(recommender: Recommender, bundle: Bundle) -> None:
    async with client_from(recommender, "127.0.0.1") as client:
        told = (await client.get("/admin/bundle")).json()
    assert told == {
        "serving": {
            "bundle": str(bundle.path),
            "model_version": bundle.manifest.model_version,
            "catalog_version": bundle.manifest.catalog_version,
            "num_items": 20,
        },
        "swap": None,
    }


@pytest.mark.parametrize(
    ("host", "base_url", "headers", "status"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000", {}, 200),
        ("127.0.0.9", "http://localhost", {}, 200),
        ("::1", "http://[::1]:8000", {}, 200),
        ("::ffff:127.0.0.1", "http://127.0.0.1", {}, 200),
        ("10.0.0.7", "http://127.0.0.1", {}, 403),
        ("::ffff:10.0.0.7", "http://127.0.0.1", {}, 403),
        ("", "http://127.0.0.1", {}, 403),
        ("127.0.0.1", "http://evil.example:8000", {}, 403),
        ("127.0.0.1", "http://127.0.0.1", {"X-Forwarded-For": "127.0.0.1"}, 403),
        ("127.0.0.1", "http://127.0.0.1", {"Forwarded": "for=127.0.0.1"}, 403),
    ],
)
async def test_only_this_machine_is_answered(
    recommender: Recommender, host: str, base_url: str, headers: dict[str, str], status: int
) -> None:
    async with client_from(recommender, host, base_url) as client:
        answer = await client.get("/admin/bundle", headers=headers)
        assert answer.status_code == status
        answer = await client.post("/admin/bundle", headers=headers, json={"bundle": "/none"})
        assert answer.status_code == (403 if status == 403 else 422)
        assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "bundle"),
        ({"bundle": ""}, "bundle"),
        ({"bundle": "relative", "worker": "127.0.0.1:1"}, "bundle"),
        ({"bundle": "/none", "worker": "127.0.0.1:1"}, "bundle"),
        ({"bundle": "/none"}, "worker"),
        ({"bundle": "/none", "worker": ""}, "worker"),
        ({"bundle": "/none", "nonsense": 1}, "nonsense"),
    ],
)
async def test_bad_swaps_name_the_field(recommender: Recommender, body: dict[str, Any], field: str) -> None:
    async with client_from(recommender, "127.0.0.1") as client:
        answer = await client.post("/admin/bundle", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_a_second_swap_is_a_conflict(recommender: Recommender, bundle: Bundle, tmp_path: Path) -> None:
    recommender.settings = recommender.settings.model_copy(update={"max_load_seconds": 1.0})
    body = {"bundle": str(bundle.path), "worker": f"unix:{tmp_path}/nobody"}
    async with client_from(recommender, "127.0.0.1") as client:
        first = await client.post("/admin/bundle", json=body)
        assert (first.status_code, first.json()["state"]) == (202, "checking")
        second = await client.post("/admin/bundle", json=body)
        assert second.status_code == 409
        assert second.json()["detail"] == "a swap is under way; one at a time"


async def test_items_are_withdrawn_and_restored(recommender: Recommender) -> None:
    async with client_from(recommender, "127.0.0.1") as client:
        answer = await client.post("/admin/items/withdraw", json={"item_ids": ["item-7", "b", "a", "item-7"]})
        assert answer.json() == {"num_withdrawn": 3, "unknown_item_ids": ["b", "a"]}
        listed = await client.post("/recommend", json={"user_id": "ann", "history": [], "num_items": 30})
        assert "item-7" not in {item["item_id"] for item in listed.json()["items"]}
        assert (await client.get("/items/item-7")).status_code == 200
        answer = await client.post("/admin/items/restore", json={"item_ids": ["item-7", "a", "c"]})
        assert answer.json() == {"num_withdrawn": 1, "unknown_item_ids": ["a", "c"]}
        told = (await client.get("/admin/items/withdrawn")).json()
        assert told == {"item_ids": ["b"], "unknown_item_ids": ["b"]}


@pytest.mark.parametrize("path", ["/admin/items/withdraw", "/admin/items/restore"])
@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "item_ids"),
        ({"item_ids": []}, "item_ids"),
        ({"item_ids": ["a", ""]}, "item_ids.1"),
        ({"item_ids": ["a" * 257]}, "item_ids.0"),
    ],
)
async def test_bad_items_name_the_field(
    recommender: Recommender, path: str, body: dict[str, Any], field: str
) -> None:
    async with client_from(recommender, "127.0.0.1") as client:
        answer = await client.post(path, json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field


async def test_a_store_that_is_down_may_be_asked_again(recommender: Recommender, memory: Any) -> None:
    memory.is_down = True
    async with client_from(recommender, "127.0.0.1") as client:
        answer = await client.post("/admin/items/withdraw", json={"item_ids": ["a"]})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    registry = recommender.metrics.registry
    assert registry.get_sample_value("padrec_history_store_errors_total") == 1.0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/admin/bundle"),
        ("POST", "/admin/bundle"),
        ("GET", "/admin/items/withdrawn"),
        ("POST", "/admin/items/withdraw"),
        ("POST", "/admin/items/restore"),
    ],
)
async def test_with_keys_an_admins_is_let_in_from_anywhere(
    recommender: Recommender, tmp_path: Path, method: str, path: str
) -> None:
    file = tmp_path / "keys.json"
    keys = {scope: add_key(file, scope, [scope]) for scope in ("read", "events", "admin")}
    async with client_from(recommender, "10.0.0.7", "http://shop.example", KeyRing(file)) as client:
        for scope, status in (("read", 403), ("events", 403), ("admin", 200 if method == "GET" else 422)):
            answer = await client.request(
                method, path, headers={"X-API-Key": keys[scope]}, json=None if method == "GET" else {}
            )
            assert answer.status_code == status
        assert (await client.request(method, path)).status_code == 401
    async with client_from(recommender, "127.0.0.1", keys=KeyRing(file)) as client:
        assert (await client.request(method, path)).status_code == 401
