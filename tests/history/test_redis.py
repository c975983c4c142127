from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.errors import HistoryStoreError, InputError
from service.history.redis import RedisHistoryStore
from service.types import Event


@pytest.fixture
async def client(redis_url: str) -> "Redis":
    async with Redis.from_url(redis_url, decode_responses=True) as client:
        await client.flushall()
        yield client


async def test_a_user_has_three_keys_with_one_hash_tag(redis_url: str, client: Redis) -> None:
    store = RedisHistoryStore(redis_url, 5)
    await store.append([Event("ann", "a", 1.0, "1")])
    keys = {"padrec:{ann}:history", "padrec:{ann}:event_ids", "padrec:{ann}:arrivals"}
    assert set(await client.keys()) == keys
    await store.delete("ann")
    assert await client.keys() == []
    await store.close()


async def test_connections_that_the_server_closed_are_replaced(redis_url: str, client: Redis) -> None:
    store = RedisHistoryStore(redis_url, 5)
    await store.append([Event("ann", "a", 1.0)])
    await client.client_kill_filter(_type="normal", skipme=True)
    assert await store.get("ann") == ["a"]
    await store.close()


async def test_a_server_that_is_down_is_an_error_of_the_store(tmp_path: Path) -> None:
    store = RedisHistoryStore(f"unix://{tmp_path}/nobody.sock", 5)
    with pytest.raises(HistoryStoreError, match="history store: "):
        await store.append([Event("ann", "a", 1.0)])
    with pytest.raises(HistoryStoreError):
        await store.get("ann")
    with pytest.raises(HistoryStoreError):
        await store.delete("ann")
    with pytest.raises(HistoryStoreError):
        await store.ping()
    await store.close()


async def test_a_server_that_refuses_is_an_error_of_the_store(redis_url: str, client: Redis) -> None:
    store = RedisHistoryStore(redis_url, 5)
    await client.set("padrec:{ann}:history", "no sorted set")
    with pytest.raises(HistoryStoreError):
        await store.append([Event("ann", "a", 1.0)])
    with pytest.raises(HistoryStoreError):
        await store.get("ann")
    await store.close()


def test_a_malformed_url_is_refused() -> None:
    with pytest.raises(InputError, match=r"history\.url"):
        RedisHistoryStore("redis://host:port/zero", 5)
