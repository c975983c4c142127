import asyncio
import signal
from pathlib import Path

import pytest
from redis.asyncio import Redis

from service.errors import HistoryStoreError, InputError
from service.history.redis import RedisHistoryStore
from service.types import Event, RememberedList
from tests.history.conftest import RedisServer


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


async def test_the_lists_of_a_user_have_three_more_that_are_over_with_the_last(
    redis_url: str, client: Redis
) -> None:
    store = RedisHistoryStore(redis_url, 5, remember_seconds=60)
    await store.remember(RememberedList("ann", "1", ("a",)))
    await store.join("ann", "1", ["a"])
    keys = {"padrec:{ann}:lists", "padrec:{ann}:list_ends", "padrec:{ann}:joined"}
    assert set(await client.keys()) == keys
    assert all([0 < await client.pttl(key) <= 60_000 for key in keys])
    await store.append([Event("ann", "a", 1.0)])
    assert all([0 < await client.pttl(key) <= 60_000 for key in keys])
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
    with pytest.raises(HistoryStoreError):
        await store.recall("ann", "1")
    with pytest.raises(HistoryStoreError):
        await store.join("ann", "1", ["a"])
    await store.close()


async def test_a_server_that_refuses_is_an_error_of_the_store(redis_url: str, client: Redis) -> None:
    store = RedisHistoryStore(redis_url, 5)
    await client.set("padrec:{ann}:history", "no sorted set")
    with pytest.raises(HistoryStoreError):
        await store.append([Event("ann", "a", 1.0)])
    with pytest.raises(HistoryStoreError):
        await store.get("ann")
    await store.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://host:port/zero", "history.url"),
        ("redis+cluster://", "'' is not host:port"),
        ("redis+clutser://a:1/b", "'clutser' is neither cluster nor sentinel"),
        ("redis+cluster://a:1,b:x", "history.url"),
        ("redis+sentinel://a:1", "/SERVICE"),
        ("rediss+cluster://a:1?ssl_cacerts=x", "'ssl_cacerts' is not one of ssl_ca_certs"),
        ("redis+cluster://a:1?ssl_ca_certs=x", "of TLS, which rediss speaks"),
        ("redis+cluster://a:1/3", "a cluster has one database"),
        ("redis+sentinel://a:1/shop/x", "/SERVICE/DB"),
        ("redis://a:1?bogus=1", "bogus"),
    ],
)
def test_a_malformed_url_is_refused(url: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RedisHistoryStore(url, 5)


async def test_the_users_of_a_cluster_are_on_all_its_nodes(cluster_ports: list[int]) -> None:
    store = RedisHistoryStore(f"redis+cluster://127.0.0.1:{cluster_ports[0]}", 5)
    users = [f"user-{number}" for number in range(60)]
    await store.append([Event(user, item, 1.0, f"{user} {item}") for item in ("a", "b") for user in users])
    assert [await store.get(user) for user in users] == [["a", "b"]] * 60
    for port in cluster_ports:
        async with Redis(port=port) as client:
            assert await client.dbsize() > 0
    await store.delete(users[0])
    assert await store.get(users[0]) == []
    await store.close()


async def test_the_master_is_whom_sentinels_name(sentinel_port: int, redis_server: RedisServer) -> None:
    store = RedisHistoryStore(f"redis+sentinel://127.0.0.1:{sentinel_port}/shop", 5)
    await store.append([Event("ann", "a", 1.0)])
    await store.close()
    direct = RedisHistoryStore(f"redis://127.0.0.1:{redis_server.port}", 5)
    assert await direct.get("ann") == ["a"]
    await direct.close()
    nobody = RedisHistoryStore(f"redis+sentinel://127.0.0.1:{sentinel_port}/other", 5)
    with pytest.raises(HistoryStoreError):
        await nobody.get("ann")
    await nobody.close()


async def test_a_user_of_the_server_may_touch_histories_alone(redis_server: RedisServer) -> None:
    async with Redis(port=redis_server.port) as admin:
        rights = (
            "on",
            ">se:cr@t",
            "~padrec:*",
            "-@all",
            "+@read",
            "+@write",
            "+@scripting",
            "+ping",
            "+@connection",
        )
        await admin.execute_command("ACL", "SETUSER", "shop", *rights)
    url = f"redis://shop:se%3Acr%40t@127.0.0.1:{redis_server.port}"
    store = RedisHistoryStore(url, 5, remember_seconds=60)
    await store.append([Event("ann", "a", 1.0, "1")])
    await store.ping()
    assert await store.get("ann") == ["a"]
    await store.remember(RememberedList("ann", "1", ("a",)))
    assert len(await store.join("ann", "1", ["a"])) == 1
    assert await store.recall("ann", "1") is not None
    await store.delete("ann")
    await store.close()
    wrong = RedisHistoryStore(url.replace("se%3A", ""), 5)
    with pytest.raises(HistoryStoreError, match="invalid username-password"):
        await wrong.get("ann")
    await wrong.close()


async def test_who_is_long_gone_is_forgotten(redis_url: str, client: Redis) -> None:
    store = RedisHistoryStore(redis_url, 5, expire_days=2)
    await store.append([Event(user, "a", 1.0, "1") for user in ("ann", "bob")])
    lifetimes = [await client.pttl(key) / 86_400_000 for key in await client.keys()]
    assert len(lifetimes) == 6
    assert all(1.99 < days <= 2.2 for days in lifetimes)
    await client.pexpire("padrec:{ann}:history", 1_000)
    await store.append([Event("ann", "b", 2.0)])
    assert await client.pttl("padrec:{ann}:history") > 1.99 * 86_400_000
    await store.close()
    forever = RedisHistoryStore(redis_url, 5)
    await forever.append([Event("ann", "c", 3.0)])
    assert [await client.pttl(f"padrec:{{ann}}:{name}") for name in ("history", "event_ids", "arrivals")] == [
        -1
    ] * 3
    await forever.close()


@pytest.mark.parametrize("kind", ["server", "cluster"])
async def test_hundreds_of_callers_wait_for_one_another(kind: str, request: pytest.FixtureRequest) -> None:
    if kind == "server":
        url = request.getfixturevalue("redis_url")
    else:
        url = f"redis+cluster://127.0.0.1:{request.getfixturevalue('cluster_ports')[0]}"
    store = RedisHistoryStore(url, 5, timeout=20)
    users = [f"caller-{number}" for number in range(400)]
    await asyncio.gather(*(store.append([Event(user, user, 1.0)]) for user in users))
    assert await asyncio.gather(*map(store.get, users)) == [[user] for user in users]
    await store.close()


async def test_an_acknowledged_event_survives_a_kill(redis_server: RedisServer) -> None:
    store = RedisHistoryStore(f"redis://127.0.0.1:{redis_server.port}", 100)
    await store.append([Event("ann", str(number), float(number)) for number in range(20)])
    redis_server.kill()
    with pytest.raises(HistoryStoreError):
        await store.get("ann")
    redis_server.start()
    assert await store.get("ann") == [str(number) for number in range(20)]
    await store.close()


async def test_a_server_that_is_silent_costs_no_more_than_the_time_it_is_given(
    redis_server: RedisServer,
) -> None:
    store = RedisHistoryStore(f"redis://127.0.0.1:{redis_server.port}", 5, timeout=0.2)
    await store.append([Event("ann", "a", 1.0, "1")])
    assert redis_server.process is not None
    redis_server.process.send_signal(signal.SIGSTOP)
    try:
        for call in (store.get("ann"), store.append([Event("ann", "b", 2.0, "2")])):
            with pytest.raises(HistoryStoreError, match="history store: "):
                await asyncio.wait_for(call, 5)
    finally:
        redis_server.process.send_signal(signal.SIGCONT)
    # Nobody knows whether it was done; told again it counts once.
    await store.append([Event("ann", "b", 2.0, "2")])
    assert await store.get("ann") == ["a", "b"]
    await store.close()


async def test_a_server_that_is_full_keeps_what_it_has_and_acknowledges_nothing(
    redis_server: RedisServer,
) -> None:
    store = RedisHistoryStore(f"redis://127.0.0.1:{redis_server.port}", 5)
    await store.append([Event("ann", "a", 1.0)])
    async with Redis(port=redis_server.port) as admin:
        await admin.config_set("maxmemory", "1")
        with pytest.raises(HistoryStoreError, match="maxmemory"):
            await store.append([Event("ann", "b", 2.0), Event("bob", "b", 2.0)])
        assert (await store.get("ann"), await store.get("bob")) == (["a"], [])
        await admin.config_set("maxmemory", "0")
    await store.append([Event("ann", "b", 2.0)])
    assert await store.get("ann") == ["a", "b"]
    await store.close()


async def test_nothing_of_a_deleted_user_is_left(redis_url: str, client: Redis) -> None:
    store = RedisHistoryStore(redis_url, 5, remember_seconds=600)
    for user in ("ann-4711", "ann-4711{x}", "bob"):
        await store.append([Event(user, "a", 1.0, f"{user}-1"), Event(user, "b", 2.0)])
        await store.remember(RememberedList(user, "1", ("a", "b")))
        await store.join(user, "1", ["a"])
    await store.delete("ann-4711")
    left = [key async for key in client.scan_iter("*", count=1)]
    assert len(left) == 12
    assert not [key for key in left if "{ann-4711}" in key]
    for user in ("ann-4711{x}", "bob"):
        await store.delete(user)
    assert [key async for key in client.scan_iter("*")] == []
    await store.close()


async def test_errors_name_no_user(redis_url: str, client: Redis) -> None:
    user = "ann-4711"
    await client.set(f"padrec:{{{user}}}:history", "no sorted set")
    await client.acl_setuser(
        "nobody", enabled=True, passwords=["+secret"], categories=["+@all"], keys=["none:*"]
    )
    stores = [RedisHistoryStore(redis_url, 5)]
    socket_file = redis_url.removeprefix("unix://")
    stores.append(RedisHistoryStore(f"unix://nobody:secret@{socket_file}", 5))
    for store in stores:
        for call in (
            lambda store=store: store.append([Event(user, user, 1.0, user)]),
            lambda store=store: store.get(user),
        ):
            with pytest.raises(HistoryStoreError) as caught:
                await call()
            assert user not in str(caught.value)
        await store.close()
    await client.acl_deluser("nobody")
