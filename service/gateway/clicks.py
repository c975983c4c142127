"""Events joined to the lists that led to them."""

import asyncio
from collections.abc import Iterable, Sequence

import structlog

from service.errors import HistoryStoreError
from service.gateway.query import NewEvent
from service.gateway.store_calls import asking_store
from service.history.store import HistoryStore
from service.telemetry.metrics import GatewayMetrics, rank_label

_log = structlog.get_logger(__name__)

# Events are recorded by then: whoever sent them does not wait long for what only counts them.
_SECONDS = 1.0


class Clicks:
    """Counts what of its lists users took up.

    Args:
        store: remembers the lists.
        metrics: what to count in.
    """

    def __init__(self, store: HistoryStore, metrics: GatewayMetrics) -> None:
        self._store, self._metrics = store, metrics

    async def join(self, events: Iterable[NewEvent]) -> int:
        """How many of these events name a list of their user that holds their item.

        Each item of a list is counted once, however many events tell of it. Where the store fails, none is.
        """
        named: dict[tuple[str, str], list[str]] = {}
        for event in events:
            if event.recommendation_id is not None:
                named.setdefault((event.user_id, event.recommendation_id), []).append(event.item_id)
        return sum(await asyncio.gather(*(self._join(*of, item_ids) for of, item_ids in named.items())))

    async def _join(self, user_id: str, recommendation_id: str, item_ids: Sequence[str]) -> int:
        try:
            async with asking_store(self._metrics, "join", _SECONDS):
                joined = await self._store.join(user_id, recommendation_id, tuple(dict.fromkeys(item_ids)))
        except HistoryStoreError as error:
            _log.warning("events are not joined", error=str(error))
            return 0
        for item in joined:
            if item.is_first:
                self._metrics.joined_events.labels(rank_label(item.rank)).inc()
        held = {item.item_id for item in joined}
        return sum(item_id in held for item_id in item_ids)
