"""A store that failed again and again is left alone for a while, so that nobody waits for it in vain."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from service.errors import HistoryStoreError
from service.history.store import HistoryStore
from service.types import Event, JoinedItem, RememberedList

T = TypeVar("T")

_LONG = 0.1  # seconds, which a store that is well never needs
# Those who have lists remembered wait for a small part of their time, and so do many one after another.
_LONG_FOR_LISTS = 0.02


class Breaker:
    """A `HistoryStore` around another.

    After `failures` calls in a row that failed, all calls fail at once for `seconds`; then one is let through, and what
    becomes of it decides for the others. `ping` always asks, and a ping that is answered ends it, too. A call that was
    given up after it had waited for long counts as one that failed.

    Lists that are remembered are counted by themselves: a store that takes no more of them is asked for histories
    nevertheless.

    Args:
        store: is asked.
        failures: in a row.
        seconds: for which nothing is asked.
        clock: seconds that only rise.
    """

    def __init__(
        self,
        store: HistoryStore,
        *,
        failures: int = 5,
        seconds: float = 1.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._histories = _Circuit(failures, seconds, clock, _LONG)
        self._lists = _Circuit(failures, seconds, clock, _LONG_FOR_LISTS)

    async def append(self, events: Sequence[Event]) -> None:
        """See `HistoryStore`."""
        await self._histories.asked(lambda: self._store.append(events))

    async def get(self, user_id: str) -> list[str]:
        """See `HistoryStore`."""
        return await self._histories.asked(lambda: self._store.get(user_id))

    async def delete(self, user_id: str) -> None:
        """See `HistoryStore`."""
        await self._histories.asked(lambda: self._store.delete(user_id))

    async def remember(self, listed: RememberedList) -> None:
        """See `HistoryStore`."""
        await self._lists.asked(lambda: self._store.remember(listed))

    async def recall(self, user_id: str, recommendation_id: str) -> RememberedList | None:
        """See `HistoryStore`."""
        return await self._lists.asked(lambda: self._store.recall(user_id, recommendation_id))

    async def join(self, user_id: str, recommendation_id: str, item_ids: Sequence[str]) -> list[JoinedItem]:
        """See `HistoryStore`."""
        return await self._lists.asked(lambda: self._store.join(user_id, recommendation_id, item_ids))

    async def ping(self) -> None:
        """See `HistoryStore`."""
        await self._histories.counted(self._store.ping())

    async def close(self) -> None:
        """See `HistoryStore`."""
        await self._store.close()


class _Circuit:
    """How calls of one kind went; arguments as of `Breaker`, and for how many seconds it is long to wait."""

    def __init__(self, failures: int, seconds: float, clock: Callable[[], float], long: float) -> None:
        self._allowed, self._seconds, self._clock, self._long = failures, seconds, clock, long
        self._failed = 0
        self._ask_again_at = 0.0

    async def asked(self, call: Callable[[], Awaitable[T]]) -> T:
        if self._failed >= self._allowed:
            now = self._clock()
            if now < self._ask_again_at:
                raise HistoryStoreError(f"history store: not asked, after {self._failed} failures in a row")
            self._ask_again_at = now + self._seconds  # whoever comes now asks for all
        return await self.counted(call())

    async def counted(self, answer: Awaitable[T]) -> T:
        started = self._clock()
        try:
            found = await answer
        except HistoryStoreError:
            self._fail()
            raise
        except asyncio.CancelledError:
            if self._clock() - started >= self._long:
                self._fail()
            raise
        self._failed = 0
        return found

    def _fail(self) -> None:
        self._failed += 1
        if self._failed == self._allowed:
            self._ask_again_at = self._clock() + self._seconds
