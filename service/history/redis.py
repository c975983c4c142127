"""Histories in Redis, for many gateways; as durable as the server's own persistence.

One script appends a whole batch, so that readers see all of it or none. A user's keys share a hash tag:
`padrec:{USER}:history`, a sorted set of arrival and item by timestamp, `padrec:{USER}:event_ids`, the event
IDs by arrival, and `padrec:{USER}:arrivals`, a counter.
"""

from collections.abc import Awaitable, Sequence
from typing import TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.errors import HistoryStoreError, InputError
from service.history.store import EVENT_IDS_PER_ITEM
from service.types import Event

T = TypeVar("T")

_TIMEOUT_SECONDS = 1.0
_ARRIVAL_DIGITS = 16

# KEYS: history, event_ids, arrivals of each user. ARGV: max_items, max_event_ids, then for each event the
# index of its user, its timestamp, item ID, and event ID or ''. Members of equal score stand in the order of
# their bytes, so an arrival of fixed width before the item keeps equal timestamps in order of arrival.
_APPEND = """
for i = 3, #ARGV, 4 do
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
"""


class RedisHistoryStore:
    """A `HistoryStore` on the Redis server at `url`; connects at the first call.

    Raises:
        InputError: the URL is malformed.
    """

    def __init__(self, url: str, max_items: int) -> None:
        self._max_items = max_items
        try:
            # No retries: after a time-out nobody knows whether an append was done; the caller decides.
            self._redis = Redis.from_url(
                url,
                decode_responses=True,
                socket_timeout=_TIMEOUT_SECONDS,
                socket_connect_timeout=_TIMEOUT_SECONDS,
                retry=Retry(NoBackoff(), 0),
            )
        except ValueError as error:
            raise InputError(f"setting 'history.url': {error}") from error
        self._append = self._redis.register_script(_APPEND)

    async def append(self, events: Sequence[Event]) -> None:
        """See `HistoryStore`."""
        if not events:
            return
        users = {user_id: index for index, user_id in enumerate(dict.fromkeys(e.user_id for e in events))}
        arguments: list[str | int] = [self._max_items, self._max_items * EVENT_IDS_PER_ITEM]
        for event in events:
            arguments += [users[event.user_id], repr(event.timestamp), event.item_id, event.event_id or ""]
        await _answer(self._append(keys=[key for user_id in users for key in _keys(user_id)], args=arguments))

    async def get(self, user_id: str) -> list[str]:
        """See `HistoryStore`."""
        members = await _answer(self._redis.zrange(_keys(user_id)[0], -self._max_items, -1))
        return [str(member)[_ARRIVAL_DIGITS:] for member in members]

    async def delete(self, user_id: str) -> None:
        """See `HistoryStore`."""
        await _answer(self._redis.delete(*_keys(user_id)))

    async def ping(self) -> None:
        """See `HistoryStore`."""
        await _answer(self._redis.ping())

    async def close(self) -> None:
        """See `HistoryStore`."""
        await self._redis.aclose()


def _keys(user_id: str) -> tuple[str, str, str]:
    start = f"padrec:{{{user_id}}}"
    return f"{start}:history", f"{start}:event_ids", f"{start}:arrivals"


async def _answer(call: Awaitable[T]) -> T:
    try:
        return await call
    except (RedisError, OSError) as error:
        raise HistoryStoreError(f"history store: {error}") from error
