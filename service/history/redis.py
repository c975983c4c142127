"""Histories in Redis, for many gateways; as durable as the server's own persistence.

One script appends a whole batch, so that readers see all of it or none; in a cluster, whose nodes know nothing of each
other, one for each user. A user's keys share a hash tag, and so a node: `padrec:{USER}:history`, a sorted set of
arrival and item by timestamp, `padrec:{USER}:event_ids`, the event IDs by arrival, and `padrec:{USER}:arrivals`, a
counter.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from service.errors import HistoryStoreError, InputError
from service.history.redis_client import connect
from service.history.store import EVENT_IDS_PER_ITEM
from service.types import Event

T = TypeVar("T")

_ARRIVAL_DIGITS = 16
_MS_PER_DAY = 86_400_000
_MOST_CALLS = 64
# Histories that were written together would all be gone at once.
_MOST_JITTER = 0.1

# KEYS: history, event_ids, arrivals of each user. ARGV: max_items, max_event_ids, milliseconds to live or 0, then
# for each event the index of its user, its timestamp, item ID, and event ID or ''. Members of equal score stand in the
# order of their bytes, so an arrival of fixed width before the item keeps equal timestamps in order of arrival.
_APPEND = """
for i = 4, #ARGV, 4 do
  local first = 3 * tonumber(ARGV[i])
  local history, event_ids, arrivals = KEYS[first + 1], KEYS[first + 2], KEYS[first + 3]
  local timestamp, item_id, event_id = ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
  if event_id == '' or not redis.call('ZSCORE', event_ids, event_id) then
    local arrival = redis.call('INCR', arrivals)
    redis.call('ZADD', history, timestamp, string.format('%016.0f', arrival) .. item_id)
    if event_id ~= '' then redis.call('ZADD', event_ids, arrival, event_id) end
  end
end
for first = 1, #KEYS, 3 do
  redis.call('ZREMRANGEBYRANK', KEYS[first], 0, -1 - tonumber(ARGV[1]))
  redis.call('ZREMRANGEBYRANK', KEYS[first + 1], 0, -1 - tonumber(ARGV[2]))
end
if ARGV[3] ~= '0' then
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[3]) end
else
  for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
end
"""


class RedisHistoryStore:
    """A `HistoryStore` in Redis; connects at the first call.

    Args:
        url: see `connect`.
        max_items: of a user.
        timeout: seconds for each answer.
        expire_days: after a user's last event all is forgotten, within a tenth more; None: never.

    Raises:
        InputError: the URL is malformed.
    """

    def __init__(
        self, url: str, max_items: int, *, timeout: float = 1.0, expire_days: float | None = None
    ) -> None:
        self._max_items = max_items
        self._expire_ms = 0 if expire_days is None else int(expire_days * _MS_PER_DAY)
        try:
            self._redis, self._others = connect(url, timeout)
        except ValueError as error:
            raise InputError(f"setting 'history.url': {error}") from error
        self._script = self._redis.register_script(_APPEND)
        # Its pool refuses whoever finds no connection; here they wait.
        self._room = asyncio.Semaphore(_MOST_CALLS)

    async def append(self, events: Sequence[Event]) -> None:
        """See `HistoryStore`; in a cluster, all or none of each user's."""
        parts: dict[str, list[Event]] = {}
        for event in events:
            parts.setdefault(event.user_id if isinstance(self._redis, RedisCluster) else "", []).append(event)
        done = await asyncio.gather(*map(self._append, parts.values()), return_exceptions=True)
        for outcome in done:
            if outcome is not None:
                raise outcome

    async def _append(self, events: Sequence[Event]) -> None:
        """In one go; of one user, in a cluster."""
        users = {user_id: index for index, user_id in enumerate(dict.fromkeys(e.user_id for e in events))}
        lifetime = int(self._expire_ms * random.uniform(1, 1 + _MOST_JITTER))
        arguments: list[str | int] = [self._max_items, self._max_items * EVENT_IDS_PER_ITEM, lifetime]
        for event in events:
            arguments += [users[event.user_id], repr(event.timestamp), event.item_id, event.event_id or ""]
        keys = [key for user_id in users for key in _keys(user_id)]
        await self._answer(lambda: self._script(keys=keys, args=arguments))

    async def get(self, user_id: str) -> list[str]:
        """See `HistoryStore`."""
        members = await self._answer(lambda: self._redis.zrange(_keys(user_id)[0], -self._max_items, -1))
        return [str(member)[_ARRIVAL_DIGITS:] for member in members]

    async def delete(self, user_id: str) -> None:
        """See `HistoryStore`."""
        await self._answer(lambda: self._redis.delete(*_keys(user_id)))

    async def ping(self) -> None:
        """See `HistoryStore`."""
        nodes = {"target_nodes": RedisCluster.PRIMARIES} if isinstance(self._redis, RedisCluster) else {}
        await self._answer(lambda: self._redis.ping(**nodes))

    async def close(self) -> None:
        """See `HistoryStore`."""
        for client in (self._redis, *self._others):
            await client.aclose()

    async def _answer(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            async with self._room:
                if isinstance(self._redis, RedisCluster):
                    # Calls that come while it does not know its nodes are sent to any, and moved on from there.
                    await self._redis.initialize()
                return await call()
        except (RedisError, RedisClusterException, OSError) as error:
            raise HistoryStoreError(f"history store: {error}") from error


def _keys(user_id: str) -> tuple[str, str, str]:
    # A hash tag ends at the first brace that closes.
    tag = user_id.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    start = f"padrec:{{{tag}}}"
    return f"{start}:history", f"{start}:event_ids", f"{start}:arrivals"
