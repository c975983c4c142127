"""What every store of withdrawn items must do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from service.config import HistorySettings
from service.errors import HistoryStoreError, InputError, RequestError
from service.history.opening import open_store, open_withdrawals
from service.history.sqlite_withdrawals import SqliteWithdrawals
from service.history.withdrawals import WithdrawalStore
from service.types import Event
from tests.history.conftest import RedisServer

Open = Callable[[], WithdrawalStore]


@pytest.fixture
async def open_one(store_url: str) -> AsyncIterator[Open]:
    """Opens stores of one kind, all on the same data, beside histories."""
    settings = HistorySettings(url=store_url)
    histories = open_store(settings)
    await histories.append([Event("withdrawn", "z", 1.0, "1")])
    async with AsyncExitStack() as stack:
        stack.push_async_callback(histories.close)

        def open_one() -> WithdrawalStore:
            store = open_withdrawals(settings)
            stack.push_async_callback(store.close)
            return store

        yield open_one
        assert await histories.get("withdrawn") == ["z"]


@pytest.fixture
def store(open_one: Open) -> WithdrawalStore:
    return open_one()


async def items(store: WithdrawalStore) -> set[str]:
    return set((await store.read()).item_ids)


async def test_nothing_is_withdrawn_at_first(store: WithdrawalStore) -> None:
    found = await store.read()
    assert (found.version, found.item_ids) == ("", frozenset())
    await store.remove(["a"])
    assert await items(store) == set()


async def test_items_are_added_and_removed_in_any_text(store: WithdrawalStore) -> None:
    odd = ["a", "", "{b}", "c'; DROP TABLE events", "日本\n", "x" * 256]
    await store.add([*odd, "a"], 6)
    assert await items(store) == set(odd)
    await store.remove(["a", "unknown", ""])
    assert await items(store) == set(odd) - {"a", ""}


async def test_every_change_has_a_version_of_its_own_that_others_see(open_one: Open) -> None:
    one, other = open_one(), open_one()
    seen = [await other.version()]
    for change in (one.add(["a"], 9), other.add(["b"], 9), one.remove(["a"]), one.add(["a"], 9)):
        await change
        found = await other.read()
        assert found.version == await one.version()
        assert found.version not in seen
        seen.append(found.version)
    assert await items(other) == {"a", "b"}


async def test_too_many_change_nothing(store: WithdrawalStore) -> None:
    await store.add(["a", "b"], 3)
    version = await store.version()
    with pytest.raises(RequestError, match="at most 3 items") as raised:
        await store.add(["c", "d", "a"], 3)
    assert raised.value.field == "item_ids"
    assert (await store.version(), await items(store)) == (version, {"a", "b"})
    await store.add(["a", "b", "c", "c"], 3)
    assert await items(store) == {"a", "b", "c"}


async def test_very_many_are_read_whole(store: WithdrawalStore) -> None:
    many = [f"item-{number}" for number in range(20_000)]
    await store.add(many, 20_000)
    assert await items(store) == set(many)


async def test_changes_at_the_same_time_are_all_there(open_one: Open) -> None:
    stores = [open_one() for _ in range(3)]
    await asyncio.gather(*(stores[n % 3].add([str(n)], 100) for n in range(30)))
    assert await items(stores[0]) == {str(n) for n in range(30)}


async def test_they_are_there_after_the_store_was_closed(tmp_path: Path) -> None:
    settings = HistorySettings(url=f"sqlite:///{tmp_path}/history.sqlite3")
    for expected in (set(), {"a"}):
        histories, store = open_store(settings), open_withdrawals(settings)
        assert await items(store) == expected
        await store.add(["a"], 9)
        await store.close()
        await histories.close()


async def test_a_deletion_of_a_user_is_not_in_their_way(tmp_path: Path) -> None:
    """It empties the write-ahead file, which nobody may be reading."""
    settings = HistorySettings(url=f"sqlite:///{tmp_path}/history.sqlite3")
    histories, store = open_store(settings), open_withdrawals(settings)
    await store.add(["a", "b"], 9)
    await histories.append([Event("ann", "z", 1.0)])
    await store.version()
    assert await items(store) == {"a", "b"}
    await histories.delete("ann")
    assert (tmp_path / "history.sqlite3-wal").stat().st_size == 0
    assert await items(store) == {"a", "b"}
    await store.close()
    await histories.close()


def test_a_file_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "history.sqlite3").write_bytes(b"something else" * 500)
    with pytest.raises(InputError, match=r"history file .*history\.sqlite3"):
        SqliteWithdrawals(tmp_path / "history.sqlite3")


async def test_a_server_that_is_gone_is_told(redis_server: RedisServer) -> None:
    store = open_withdrawals(HistorySettings(url=f"redis://127.0.0.1:{redis_server.port}/0"))
    await store.add(["a"], 9)
    redis_server.kill()
    for call in (store.version(), store.read(), store.add(["b"], 9), store.remove(["a"])):
        with pytest.raises(HistoryStoreError):
            await call
    redis_server.start()
    assert await items(store) == {"a"}
    await store.close()
