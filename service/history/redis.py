"""Histories in Redis, for many gateways; as durable as the server's own persistence.

One script appends a whole batch, so that readers see all of it or none; in a cluster, whose nodes know nothing of each
other, one for each user. A user's keys share a hash tag, and so a node: `padrec:{USER}:history`, a sorted set of
arrival and item by timestamp, `padrec:{USER}:event_ids`, the event IDs by arrival, and `padrec:{USER}:arrivals`, a
counter. The lists that are remembered are a hash by their IDs, `padrec:{USER}:lists`, with `padrec:{USER}:list_ends`, a
sorted set of the IDs by when they are over, and `padrec:{USER}:joined`, the ranks of each that events were joined to.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from redis.asyncio import RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from service.errors import HistoryStoreError, InputError
from service.history.redis_client import connect
from service.history.store import EVENT_IDS_PER_ITEM, MAX_LISTS
from service.types import Event, JoinedItem, RememberedList

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

# KEYS: lists, list_ends, joined of a user. ARGV: recommendation ID, list, when it is over and what time it is, both in
# microseconds, milliseconds to live, most lists.
_REMEMBER = """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], ARGV[3], ARGV[1])
local old = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', ARGV[4])
if #old == 0 then old = redis.call('ZRANGE', KEYS[2], 0, -1 - tonumber(ARGV[6])) end
for _, id in ipairs(old) do
  redis.call('ZREM', KEYS[2], id)
  redis.call('HDEL', KEYS[1], id)
  redis.call('HDEL', KEYS[3], id)
end
for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, ARGV[5]) end
"""

# KEYS: lists, list_ends, joined of a user. ARGV: recommendation ID, what time it is in microseconds, item IDs.
_JOIN = """
local ends = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not ends or tonumber(ends) <= tonumber(ARGV[2]) then return {} end
local ranks = {}
for rank, item_id in ipairs(cjson.decode(redis.call('HGET', KEYS[1], ARGV[1])).item_ids) do ranks[item_id] = rank end
local before = redis.call('HGET', KEYS[3], ARGV[1]) or ','
local after, joined = before, {}
for i = 3, #ARGV do
  local rank = ranks[ARGV[i]]
  if rank then
    local is_first = not string.find(after, ',' .. rank .. ',', 1, true)
    if is_first then after = after .. rank .. ',' end
    table.insert(joined, {ARGV[i], rank, is_first and 1 or 0})
  end
end
if after ~= before then
  redis.call('HSET', KEYS[3], ARGV[1], after)
  redis.call('PEXPIRE', KEYS[3], redis.call('PTTL', KEYS[1]))
end
return joined
"""


class RedisHistoryStore:
    """A `HistoryStore` in Redis; connects at the first call.

    Args:
        url: see `connect`.
        max_items: of a user.
        timeout: seconds for each answer.
        expire_days: after a user's last event all is forgotten, within a tenth more; None: never.
        remember_seconds: for which a list is remembered; 0: not at all.
        clock: seconds since the epoch.

    Raises:
        InputError: the URL is malformed.
    """

    def __init__(
        self,
        url: str,
        max_items: int,
        *,
        timeout: float = 1.0,
        expire_days: float | None = None,
        remember_seconds: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._max_items = max_items
        self._remember_seconds = remember_seconds
        self._clock = clock
        self._expire_ms = 0 if expire_days is None else int(expire_days * _MS_PER_DAY)
        try:
            self._redis, self._others = connect(url, timeout)
        except ValueError as error:
            raise InputError(f"setting 'history.url': {error}") from error
        self._script = self._redis.register_script(_APPEND)
        self._remember_script = self._redis.register_script(_REMEMBER)
        self._join_script = self._redis.register_script(_JOIN)
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
        await self._answer(lambda: self._redis.delete(*_keys(user_id), *_list_keys(user_id)))

    async def remember(self, listed: RememberedList) -> None:
        """See `HistoryStore`."""
        if not self._remember_seconds:
            return
        now = self._clock()
        ends = now + self._remember_seconds
        told = {"ends": ends, "item_ids": listed.item_ids, "before": listed.before}
        arguments: list[str | int] = [
            listed.recommendation_id,
            json.dumps(told),
            _microseconds(ends),
            _microseconds(now),
            max(1, round(1000 * self._remember_seconds)),
            MAX_LISTS,
        ]
        keys = _list_keys(listed.user_id)
        await self._answer(lambda: self._remember_script(keys=keys, args=arguments))

    async def recall(self, user_id: str, recommendation_id: str) -> RememberedList | None:
        """See `HistoryStore`."""
        lists = _list_keys(user_id)[0]
        found = await self._answer(lambda: self._redis.hget(lists, recommendation_id))
        if found is None:
            return None
        told = json.loads(found)
        if told["ends"] <= self._clock():
            return None
        return RememberedList(user_id, recommendation_id, tuple(told["item_ids"]), tuple(told["before"]))

    async def join(self, user_id: str, recommendation_id: str, item_ids: Sequence[str]) -> list[JoinedItem]:
        """See `HistoryStore`."""
        arguments: list[str | int] = [recommendation_id, _microseconds(self._clock()), *item_ids]
        keys = _list_keys(user_id)
        joined = await self._answer(lambda: self._join_script(keys=keys, args=arguments))
        return [JoinedItem(item_id, rank, bool(is_first)) for item_id, rank, is_first in joined]

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
    start = _start(user_id)
    return f"{start}:history", f"{start}:event_ids", f"{start}:arrivals"


def _list_keys(user_id: str) -> tuple[str, str, str]:
    start = _start(user_id)
    return f"{start}:lists", f"{start}:list_ends", f"{start}:joined"


def _start(user_id: str) -> str:
    # A hash tag ends at the first brace that closes.
    tag = user_id.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")
    return f"padrec:{{{tag}}}"


def _microseconds(seconds: float) -> int:
    return round(1e6 * seconds)
