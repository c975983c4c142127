"""The use case, whatever the protocol: a query becomes rows, rows become a list, the list becomes items."""

import asyncio
import random
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import structlog

from service.catalog.allowed import allowed_rows
from service.catalog.bundle import Manifest
from service.catalog.filters import Filters
from service.catalog.items import Catalogue
from service.catalog.window import window
from service.config import GatewaySettings
from service.errors import HistoryStoreError, NoSuchItemError, PadrecError, RequestError
from service.gateway.answer import (
    FallbackReason,
    ItemAnswer,
    Recommendation,
    RecommendedItem,
    Speculation,
    Timings,
)
from service.gateway.clock import Clock
from service.gateway.popular import PopularList
from service.gateway.query import NewEvent, RecommendQuery
from service.history.store import HistoryStore
from service.telemetry.metrics import GatewayMetrics
from service.types import DecodedList, DecodeRequest, Decoding, Event, Item

_log = structlog.get_logger(__name__)

_CHECK_SECONDS = 1.0
# Of the deadline's rest: a store that hangs longer counts as down, while there is time to answer without it.
_STORE_SHARE = 1 / 3
_NUM_CACHED_ITEMS = 10_000


class Worker(Protocol):
    """Who writes lists; `service.rpc.client.WorkerClient` over the wire."""

    async def decode(self, request: DecodeRequest, *, timeout: float) -> tuple[DecodedList, str]:
        """A list, within `timeout` seconds, and the version of the model that wrote it.

        Raises:
            QueueFullError: too many requests wait.
            DeadlineExceededError: the time was not enough.
            UnavailableError: no worker answers.
        """
        ...

    async def ready(self) -> bool:
        """Whether the worker takes requests."""
        ...


class Recommender:
    """Answers queries on one bundle.

    Args:
        catalogue: the bundle's items.
        manifest: the bundle's versions and decoding defaults.
        popular: item IDs, most popular first.
        history_store: users' histories.
        worker: writes lists in rows of `catalogue`.
        settings: bounds and deadlines.
        metrics: what to count in.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        manifest: Manifest,
        popular: Iterable[str],
        history_store: HistoryStore,
        worker: Worker,
        settings: GatewaySettings,
        metrics: GatewayMetrics,
    ) -> None:
        self.settings = settings
        self.metrics = metrics
        self._catalogue = catalogue
        self._manifest = manifest
        # Lists repeat: reading an item from the table takes longer than all other work on it.
        self._item = lru_cache(_NUM_CACHED_ITEMS)(catalogue.item)
        self._popular = PopularList(self._known(popular)[0])
        self._filters = Filters(catalogue)
        self._store = history_store
        self._worker = worker

    async def recommend(self, query: RecommendQuery) -> Recommendation:
        """A list for a user.

        Raises:
            RequestError: the query is beyond a bound of the settings or the bundle.
            QueueFullError, DeadlineExceededError, UnavailableError: what the worker says.
        """
        clock = Clock(self._checked_deadline(query))
        history, degraded = await self._history(query, clock)
        history_seconds = clock.elapsed()
        # Off the loop: a filter that is new takes a while over a large catalogue.
        allowed = None if query.filter is None else await asyncio.to_thread(self._filters.bits, query.filter)
        request, ignored = self._request(query, history, allowed)
        if request.history:
            ranking = await self._written(request, clock)
        else:
            ranking = self._popular_items(request, "history_unavailable" if degraded else "cold_start")
        return Recommendation(
            recommendation_id=request.request_id,
            user_id=query.user_id,
            items=tuple(self._items(ranking)),
            model_version=ranking.model_version,
            catalog_version=self._manifest.catalog_version,
            fallback=ranking.fallback,
            degraded=degraded,
            exhausted=ranking.exhausted,
            ignored_item_ids=ignored,
            timings=Timings(
                history_ms=_milliseconds(history_seconds),
                queue_ms=_milliseconds(ranking.queue_seconds),
                prefill_ms=_milliseconds(ranking.prefill_seconds),
                decode_ms=_milliseconds(ranking.decode_seconds),
                total_ms=_milliseconds(clock.elapsed()),
            ),
            speculation=ranking.speculation,
        )

    async def recommend_batch(self, queries: Sequence[RecommendQuery]) -> list[Recommendation | PadrecError]:
        """A list for each query, or why there is none, in their order.

        Raises:
            RequestError: there are too many.
        """
        if len(queries) > self.settings.max_batch_requests:
            raise RequestError("requests", f"at most {self.settings.max_batch_requests} at a time")
        answers = await asyncio.gather(*map(self.recommend, queries), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, PadrecError):
                raise answer
        return answers  # type: ignore[return-value]

    async def record_events(self, events: Sequence[NewEvent]) -> tuple[str, ...]:
        """Make events durable, all or none; those without a timestamp happened now.

        Returns:
            Items that the catalogue does not hold: recorded too, since a later bundle may know them.

        Raises:
            RequestError: there are too many.
            HistoryStoreError: nothing was recorded, as far as is known; sent again, events with an ID count once.
        """
        if len(events) > self.settings.max_events:
            raise RequestError("events", f"at most {self.settings.max_events} at a time")
        now = time.time()
        records = [
            Event(
                user_id=event.user_id,
                item_id=event.item_id,
                timestamp=now if event.timestamp is None else event.timestamp,
                event_id=event.event_id,
            )
            for event in events
        ]
        with self._counted_errors():
            await self._store.append(records)
        return tuple(dict.fromkeys(self._known(event.item_id for event in events)[1]))

    async def get_history(self, user_id: str) -> list[str]:
        """The user's stored items, oldest first; raises `HistoryStoreError`."""
        with self._counted_errors():
            return await self._store.get(user_id)

    async def delete_history(self, user_id: str) -> None:
        """Forget a user; raises `HistoryStoreError`."""
        with self._counted_errors():
            await self._store.delete(user_id)

    def get_item(self, item_id: str) -> ItemAnswer:
        """An item of the catalogue; raises `NoSuchItemError`."""
        row = self._catalogue.row_of(item_id)
        if row is None:
            raise NoSuchItemError(f"no such item: {item_id}")
        return ItemAnswer(**_told(self._catalogue.item(row)))

    async def checks(self) -> dict[str, bool]:
        """By the name of each thing that lists depend on, whether it answers."""
        worker, store = await asyncio.gather(self._worker.ready(), self._store_answers())
        return {"worker": worker, "history_store": store}

    async def _store_answers(self) -> bool:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._store.ping()
        except (HistoryStoreError, TimeoutError):
            return False
        return True

    def _checked_deadline(self, query: RecommendQuery) -> float:
        """Seconds for the answer; raises `RequestError` for what the models could not check."""
        settings, max_num_items = self.settings, self._manifest.decoding.max_num_items
        if query.temperature and self._decoding(query) == "beam":
            raise RequestError("temperature", "beam decoding takes no temperature")
        if query.num_items > max_num_items:
            raise RequestError("num_items", f"this bundle's lists hold at most {max_num_items} items")
        if query.history is not None and len(query.history) > settings.max_history_items:
            raise RequestError("history", f"at most {settings.max_history_items} items; send the latest")
        if len(query.exclude_item_ids) > settings.max_excluded_items:
            raise RequestError("exclude_item_ids", f"at most {settings.max_excluded_items} items")
        deadline_ms = settings.default_deadline_ms if query.deadline_ms is None else query.deadline_ms
        if deadline_ms > settings.max_deadline_ms:
            raise RequestError("deadline_ms", f"at most {settings.max_deadline_ms}")
        return deadline_ms / 1000

    async def _history(self, query: RecommendQuery, clock: Clock) -> tuple[Sequence[str], bool]:
        """The request's history or the stored one, and whether the store was down."""
        if query.history is not None:
            return query.history, False
        try:
            with self._counted_errors():
                return await self._stored_history(query.user_id, _STORE_SHARE * clock.remaining()), False
        except HistoryStoreError as error:
            _log.warning("history store failed", error=str(error))
            return (), True

    async def _stored_history(self, user_id: str, seconds: float) -> list[str]:
        try:
            async with asyncio.timeout(seconds):
                return await self._store.get(user_id)
        except TimeoutError as error:
            raise HistoryStoreError(f"no answer within {seconds:.3f} s") from error

    def _request(
        self, query: RecommendQuery, history: Sequence[str], allowed: bytes | None
    ) -> tuple[DecodeRequest, tuple[str, ...]]:
        """The query in rows, and the items it names that do not exist."""
        seen, unknown = self._known(history)
        excluded, unknown_exclusions = self._known(query.exclude_item_ids)
        request = DecodeRequest(
            request_id=uuid.uuid4().hex,
            history=window(seen, self._manifest.decoding.max_history_items),
            num_items=query.num_items,
            excluded=tuple({*excluded, *seen} if query.exclude_seen else set(excluded)),
            temperature=query.temperature,
            top_p=query.top_p,
            seed=random.getrandbits(63) if query.seed is None else query.seed,
            priority=query.priority,
            decoding=self._decoding(query),
            allowed=allowed,
        )
        return request, tuple(dict.fromkeys(unknown + unknown_exclusions))

    def _decoding(self, query: RecommendQuery) -> Decoding:
        return query.decoding or self._manifest.decoding.decoding

    async def _written(self, request: DecodeRequest, clock: Clock) -> "_Ranking":
        written, model_version = await self._worker.decode(request, timeout=clock.remaining())
        return _Ranking(
            rows=[(item.row, item.score) for item in written.items],
            exhausted=written.exhausted,
            model_version=model_version,
            queue_seconds=written.queue_seconds,
            prefill_seconds=written.prefill_seconds,
            decode_seconds=written.decode_seconds,
            speculation=None if request.decoding == "beam" else _speculation(written),
        )

    def _popular_items(self, request: DecodeRequest, reason: FallbackReason) -> "_Ranking":
        self.metrics.fallbacks.labels(reason).inc()
        rows = self._popular.first(request.num_items, allowed_rows(request, len(self._catalogue)))
        return _Ranking(
            rows=[(row, None) for row in rows],
            exhausted=len(rows) < request.num_items,
            model_version=self._manifest.model_version,
            fallback=reason,
        )

    def _known(self, item_ids: Iterable[str]) -> tuple[list[int], list[str]]:
        """Rows of the items that exist, and the IDs that do not, both in the given order."""
        rows, unknown = [], []
        for item_id in item_ids:
            row = self._catalogue.row_of(item_id)
            if row is None:
                unknown.append(item_id)
            else:
                rows.append(row)
        return rows, unknown

    def _items(self, ranking: "_Ranking") -> Iterator[RecommendedItem]:
        for rank, (row, score) in enumerate(ranking.rows, start=1):
            yield RecommendedItem(**_told(self._item(row)), rank=rank, score=score)

    @contextmanager
    def _counted_errors(self) -> Iterator[None]:
        try:
            yield
        except HistoryStoreError:
            self.metrics.history_store_errors.inc()
            raise


@dataclass(frozen=True, slots=True)
class _Ranking:
    """Rows with their scores, best first, and where they come from."""

    rows: Sequence[tuple[int, float | None]]
    exhausted: bool
    model_version: str
    fallback: FallbackReason | None = None
    queue_seconds: float = 0.0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    speculation: Speculation | None = None


def _speculation(written: DecodedList) -> Speculation:
    return Speculation(
        rounds=written.num_rounds,
        accepted_length=round(written.accepted_length, 3),
        accepted_length_without_forced=round(written.accepted_length_without_forced, 3),
    )


def _told(item: Item) -> dict[str, Any]:
    """The fields of an item's answer."""
    return {"item_id": item.item_id, "title": item.title, "attributes": dict(item.attributes)}


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
