"""What a query is about and does not say: the user's history, and the lists that this one comes after."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from service.errors import HistoryStoreError
from service.gateway.answer import FallbackReason
from service.gateway.pages import Pages
from service.gateway.query import RecommendQuery
from service.gateway.store_calls import asking_store
from service.history.store import HistoryStore
from service.telemetry.metrics import GatewayMetrics

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Stored:
    """What was found.

    Attributes:
        history: item IDs, oldest first; the query's own, where it brings one.
        before: item IDs of the lists that this one comes after.
        fallback: why there would be no history.
        degraded: the store was down.
    """

    history: Sequence[str]
    before: tuple[str, ...]
    fallback: FallbackReason
    degraded: bool


async def read_stored(
    query: RecommendQuery, store: HistoryStore, pages: Pages, metrics: GatewayMetrics, seconds: float
) -> Stored:
    """Ask the store, for no more than so many seconds.

    Raises:
        NoSuchRecommendationError, RequestError: as `Pages.before`.
    """
    (history, history_down), (before, lists_down) = await asyncio.gather(
        _history(query, store, metrics, seconds), pages.before(query, seconds)
    )
    reason: FallbackReason = "history_unavailable" if history_down else "cold_start"
    return Stored(history, before, reason, degraded=history_down or lists_down)


async def _history(
    query: RecommendQuery, store: HistoryStore, metrics: GatewayMetrics, seconds: float
) -> tuple[Sequence[str], bool]:
    """The request's history or the stored one, and whether the store was down."""
    if query.history is not None:
        return query.history, False
    try:
        async with asking_store(metrics, "get", seconds):
            return await store.get(query.user_id), False
    except HistoryStoreError as error:
        _log.warning("history store failed", error=str(error))
        return (), True
