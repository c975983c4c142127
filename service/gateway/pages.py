"""Lists that come after others, and hold nothing of them."""

import structlog

from service.errors import HistoryStoreError, NoSuchRecommendationError, RequestError
from service.gateway.query import RecommendQuery
from service.gateway.store_calls import asking_store
from service.history.store import HistoryStore
from service.telemetry.metrics import GatewayMetrics, rank_label
from service.types import RememberedList

_log = structlog.get_logger(__name__)


class Pages:
    """What users were recommended lately.

    Args:
        store: remembers it.
        metrics: what to count in.
        max_items: that the lists which one comes after may hold.
    """

    def __init__(self, store: HistoryStore, metrics: GatewayMetrics, max_items: int) -> None:
        self._store, self._metrics, self._max_items = store, metrics, max_items

    async def before(self, query: RecommendQuery, seconds: float) -> tuple[tuple[str, ...], bool]:
        """The items of the list that a query's comes after, and of those before that; and whether the store was down.

        Args:
            query: may name a list.
            seconds: within which the store answers.

        Raises:
            NoSuchRecommendationError: the user was recommended no such list, or it is no longer remembered.
            RequestError: there are too many.
        """
        if query.after_recommendation_id is None:
            return (), False
        try:
            async with asking_store(self._metrics, "recall", seconds):
                found = await self._store.recall(query.user_id, query.after_recommendation_id)
        except HistoryStoreError as error:
            _log.warning("history store failed", error=str(error))
            return (), True
        if found is None:
            raise NoSuchRecommendationError(
                "after_recommendation_id: no such recommendation of this user, or it is no longer remembered"
            )
        before = found.before + found.item_ids
        if len(before) > self._max_items:
            raise RequestError(
                "after_recommendation_id",
                f"lists that come after one another hold at most {self._max_items} items",
            )
        return before, False

    async def listed(self, listed: RememberedList, seconds: float) -> None:
        """Count a list, and have it known; a store that does not take it in so many seconds has forgotten it."""
        for rank in range(1, 1 + len(listed.item_ids)):
            self._metrics.listed_items.labels(rank_label(rank)).inc()
        try:
            async with asking_store(self._metrics, "remember", seconds):
                await self._store.remember(listed)
        except HistoryStoreError as error:
            _log.warning("a list is not remembered", error=str(error))
