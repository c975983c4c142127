import asyncio
from dataclasses import dataclass, field

import pytest

from service.errors import HistoryStoreError
from service.history.breaker import Breaker
from service.types import Event, RememberedList


@dataclass
class Store:
    """Answers, or fails as told; counts what it is asked."""

    is_down: bool = False
    asked: list[str] = field(default_factory=list)

    async def _ask(self, what: str) -> list[str]:
        self.asked.append(what)
        if self.is_down:
            raise HistoryStoreError("history store: down")
        return [what]

    async def append(self, events: object) -> None:
        await self._ask("append")

    async def get(self, user_id: str) -> list[str]:
        return await self._ask("get")

    async def delete(self, user_id: str) -> None:
        await self._ask("delete")

    async def remember(self, listed: object) -> None:
        await self._ask("remember")

    async def recall(self, user_id: str, recommendation_id: str) -> None:
        await self._ask("recall")

    async def join(self, user_id: str, recommendation_id: str, item_ids: object) -> list[str]:
        return await self._ask("join")

    async def ping(self) -> None:
        await self._ask("ping")

    async def close(self) -> None:
        self.asked.append("close")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(store: Store, clock: Clock) -> Breaker:
    return Breaker(store, failures=3, seconds=2.0, clock=clock)


async def fails(breaker: Breaker, times: int) -> list[str]:
    messages = []
    for _ in range(times):
        with pytest.raises(HistoryStoreError) as caught:
            await breaker.get("ann")
        messages.append(str(caught.value))
    return messages


async def test_all_calls_pass_while_all_is_well(breaker: Breaker, store: Store) -> None:
    await breaker.append([Event("ann", "a", 1.0)])
    assert await breaker.get("ann") == ["get"]
    await breaker.delete("ann")
    await breaker.remember(RememberedList("ann", "1", ("a",)))
    await breaker.recall("ann", "1")
    await breaker.join("ann", "1", ["a"])
    await breaker.ping()
    await breaker.close()
    assert store.asked == ["append", "get", "delete", "remember", "recall", "join", "ping", "close"]


async def test_after_failures_in_a_row_nothing_is_asked_for_a_while(
    breaker: Breaker, store: Store, clock: Clock
) -> None:
    store.is_down = True
    messages = await fails(breaker, 5)
    assert (
        messages == ["history store: down"] * 3 + ["history store: not asked, after 3 failures in a row"] * 2
    )
    clock.now += 2.0
    assert (await fails(breaker, 2))[0] == "history store: down"  # one asks for all
    assert len(store.asked) == 4
    store.is_down = False
    clock.now += 2.0
    assert [await breaker.get("ann") for _ in range(3)] == [["get"]] * 3


async def test_a_store_that_takes_no_lists_is_asked_for_histories(breaker: Breaker, store: Store) -> None:
    store.is_down = True
    for _ in range(5):
        with pytest.raises(HistoryStoreError):
            await breaker.remember(RememberedList("ann", "1", ("a",)))
    assert len(store.asked) == 3
    store.is_down = False
    assert await breaker.get("ann") == ["get"]
    with pytest.raises(HistoryStoreError, match="not asked, after 3 failures in a row"):
        await breaker.recall("ann", "1")


async def test_failures_count_in_a_row_alone(breaker: Breaker, store: Store) -> None:
    for _ in range(3):
        store.is_down = True
        await fails(breaker, 2)
        store.is_down = False
        await breaker.get("ann")
    assert len(store.asked) == 9


async def test_a_call_that_was_given_up_counts_if_it_had_waited_for_long(
    breaker: Breaker, store: Store, clock: Clock
) -> None:
    async def silent(user_id: str) -> list[str]:
        store.asked.append("get")
        await asyncio.Event().wait()
        return []

    store.get = silent
    for waited, failed in ((0.01, 0), (0.5, 1), (0.5, 2), (0.5, 3)):
        call = asyncio.ensure_future(breaker.get("ann"))
        await asyncio.sleep(0)
        clock.now += waited
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert breaker._histories._failed == failed
    assert (await fails(breaker, 1))[0] == "history store: not asked, after 3 failures in a row"


async def test_lists_wait_for_less(breaker: Breaker, store: Store, clock: Clock) -> None:
    async def silent(listed: object) -> None:
        await asyncio.Event().wait()

    store.remember = silent
    for _ in range(3):
        call = asyncio.ensure_future(breaker.remember(RememberedList("ann", "1", ("a",))))
        await asyncio.sleep(0)
        clock.now += 0.03
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    with pytest.raises(HistoryStoreError, match="not asked, after 3 failures in a row"):
        await breaker.remember(RememberedList("ann", "1", ("a",)))


async def test_a_ping_always_asks_and_ends_it(breaker: Breaker, store: Store) -> None:
    store.is_down = True
    await fails(breaker, 3)
    with pytest.raises(HistoryStoreError, match="down"):
        await breaker.ping()
    store.is_down = False
    await breaker.ping()
    assert await breaker.get("ann") == ["get"]
