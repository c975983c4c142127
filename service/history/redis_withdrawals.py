"""Withdrawn items in Redis: `padrec:{withdrawn}:items`, a set, and `padrec:{withdrawn}:version`."""

import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from service.errors import HistoryStoreError, InputError
from service.history.redis_client import connect
from service.history.withdrawals import Withdrawn, too_many

T = TypeVar("T")

# No user's keys, for those end in other words.
_ITEMS, _VERSION = (f"padrec:{{withdrawn}}:{name}" for name in ("items", "version"))
_PER_ANSWER = 5_000

# KEYS: items, version. ARGV: the new version, the most items there may be, then those to be added. Nothing is changed
# before all is counted. Whether it was done.
_ADD = """
local new = 0
for i = 3, #ARGV do new = new + 1 - redis.call('SISMEMBER', KEYS[1], ARGV[i]) end
if redis.call('SCARD', KEYS[1]) + new > tonumber(ARGV[2]) then return 0 end
for i = 3, #ARGV do redis.call('SADD', KEYS[1], ARGV[i]) end
redis.call('SET', KEYS[2], ARGV[1])
return 1
"""
# KEYS as above. ARGV: the new version, then the items to be removed.
_REMOVE = """
for i = 2, #ARGV do redis.call('SREM', KEYS[1], ARGV[i]) end
redis.call('SET', KEYS[2], ARGV[1])
"""


class RedisWithdrawals:
    """A `WithdrawalStore` in Redis; connects at the first call.

    Args:
        url: see `connect`.
        timeout: seconds for each answer.

    Raises:
        InputError: the URL is malformed.
    """

    def __init__(self, url: str, timeout: float) -> None:
        try:
            self._redis, self._others = connect(url, timeout)
        except ValueError as error:
            raise InputError(f"setting 'history.url': {error}") from error
        self._add, self._remove = (self._redis.register_script(script) for script in (_ADD, _REMOVE))

    async def version(self) -> str:
        """See `WithdrawalStore`."""
        return str(await self._answer(lambda: self._redis.get(_VERSION)) or "")

    async def read(self) -> Withdrawn:
        """See `WithdrawalStore`."""
        version = await self.version()  # before the items, so that it is never newer
        item_ids: set[str] = set()
        cursor = 0
        while True:  # in parts, so that each answer has its time
            part = partial(self._redis.sscan, _ITEMS, cursor, count=_PER_ANSWER)
            cursor, found = await self._answer(part)
            item_ids.update(map(str, found))
            if cursor == 0:
                return Withdrawn(version, frozenset(item_ids))

    async def add(self, item_ids: Sequence[str], limit: int) -> None:
        """See `WithdrawalStore`."""
        arguments: list[str | int] = [uuid.uuid4().hex, limit, *dict.fromkeys(item_ids)]
        if not await self._answer(lambda: self._add(keys=[_ITEMS, _VERSION], args=arguments)):
            raise too_many(limit)

    async def remove(self, item_ids: Sequence[str]) -> None:
        """See `WithdrawalStore`."""
        arguments = [uuid.uuid4().hex, *item_ids]
        await self._answer(lambda: self._remove(keys=[_ITEMS, _VERSION], args=arguments))

    async def close(self) -> None:
        """See `WithdrawalStore`."""
        for client in (self._redis, *self._others):
            await client.aclose()

    async def _answer(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            if isinstance(self._redis, RedisCluster):
                await self._redis.initialize()
            return await call()
        except (RedisError, RedisClusterException, OSError) as error:
            raise HistoryStoreError(f"history store: {error}") from error
