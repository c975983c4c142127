"""The use case, whatever the protocol: a query becomes rows, rows become a list, the list becomes items."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from service.catalog.allowed import allowed_rows
from service.catalog.window import window
from service.config import GatewaySettings
from service.errors import HistoryStoreError, NoSuchItemError, PadrecError, RequestError
from service.gateway.answer import (
    Explanation,
    FallbackReason,
    ItemAnswer,
    Recommendation,
    RecommendedItem,
    Speculation,
    Timings,
)
from service.gateway.clock import Clock
from service.gateway.edition import Edition
from service.gateway.explanation import explanation_of
from service.gateway.query import NewEvent, RecommendQuery
from service.history.store import HistoryStore
from service.telemetry.metrics import GatewayMetrics
from service.types import DecodedItem, DecodedList, DecodeRequest, Decoding, Event, Item

_log = structlog.get_logger(__name__)

_CHECK_SECONDS = 1.0
# Of the deadline's rest: a store that hangs longer counts as down, while there is time to answer without it.
_STORE_SHARE = 1 / 3


class Recommender:
    """Answers queries on the edition that is served at their start.

    Args:
        edition: what is served.
        history_store: users' histories.
        settings: bounds and deadlines.
        metrics: what to count in.

    Attributes:
        edition: what requests take that start now; assigned to serve another.
    """

    def __init__(
        self,
        edition: Edition,
        history_store: HistoryStore,
        settings: GatewaySettings,
        metrics: GatewayMetrics,
    ) -> None:
        self.edition = edition
        self.settings = settings
        self.metrics = metrics
        self._store = history_store

    async def recommend(self, query: RecommendQuery) -> Recommendation:
        """A list for a user.

        Raises:
            RequestError: the query is beyond a bound of the settings or the bundle.
            QueueFullError, DeadlineExceededError, UnavailableError: what the worker says.
        """
        with self.edition.held() as edition:
            return await self._recommend(edition, query)

    async def recommend_stream(
        self, query: RecommendQuery
    ) -> AsyncGenerator[RecommendedItem | Recommendation, None]:
        """A list's items as they are accepted, then the whole list; raises what `recommend` raises."""
        with self.edition.held() as edition:
            asked = await self._asked(edition, query)
            ranking, num_told = None, 0
            if asked.request.history:
                timeout = asked.clock.remaining()
                async with aclosing(edition.worker.decode_stream(asked.request, timeout=timeout)) as updates:
                    async for update in updates:
                        if isinstance(update, DecodedItem):
                            num_told += 1
                            yield _item(edition, num_told, update.row, update.score)
                        else:
                            ranking = _ranking(edition, asked.request, *update)
            answer = self._recommendation(
                edition, query, asked, ranking or self._popular_items(edition, asked)
            )
            for item in answer.items[num_told:]:
                yield item
            yield answer

    async def _recommend(self, edition: Edition, query: RecommendQuery) -> Recommendation:
        asked = await self._asked(edition, query)
        if asked.request.history:
            written = await edition.worker.decode(asked.request, timeout=asked.clock.remaining())
            ranking = _ranking(edition, asked.request, *written)
        else:
            ranking = self._popular_items(edition, asked)
        return self._recommendation(edition, query, asked, ranking)

    async def _asked(self, edition: Edition, query: RecommendQuery) -> "_Asked":
        """What the worker is asked for."""
        clock = Clock(self._checked_deadline(edition, query))
        history, degraded = await self._history(query, clock)
        history_seconds = clock.elapsed()
        # Off the loop: a filter that is new takes a while over a large catalogue.
        allowed = (
            None if query.filter is None else await asyncio.to_thread(edition.filters.bits, query.filter)
        )
        request, ignored = self._request(edition, query, history, allowed)
        return _Asked(request, ignored, clock, degraded, history_seconds)

    def _recommendation(
        self, edition: Edition, query: RecommendQuery, asked: "_Asked", ranking: "_Ranking"
    ) -> Recommendation:
        """What the caller is told."""
        return Recommendation(
            recommendation_id=asked.request.request_id,
            user_id=query.user_id,
            items=tuple(_items(edition, ranking)),
            model_version=ranking.model_version,
            catalog_version=edition.manifest.catalog_version,
            fallback=ranking.fallback,
            degraded=asked.degraded,
            exhausted=ranking.exhausted,
            ignored_item_ids=asked.ignored,
            timings=Timings(
                history_ms=_milliseconds(asked.history_seconds),
                queue_ms=_milliseconds(ranking.queue_seconds),
                prefill_ms=_milliseconds(ranking.prefill_seconds),
                decode_ms=_milliseconds(ranking.decode_seconds),
                total_ms=_milliseconds(asked.clock.elapsed()),
            ),
            speculation=ranking.speculation,
            explanation=ranking.explanation,
        )

    async def recommend_batch(self, queries: Sequence[RecommendQuery]) -> list[Recommendation | PadrecError]:
        """A list for each query, or why there is none, in their order; all of one edition.

        Raises:
            RequestError: there are too many.
        """
        if len(queries) > self.settings.max_batch_requests:
            raise RequestError("requests", f"at most {self.settings.max_batch_requests} at a time")
        with self.edition.held() as edition:
            answers = await asyncio.gather(
                *(self._recommend(edition, query) for query in queries), return_exceptions=True
            )
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
        return tuple(dict.fromkeys(self.edition.known(event.item_id for event in events)[1]))

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
        catalogue = self.edition.catalogue
        row = catalogue.row_of(item_id)
        if row is None:
            raise NoSuchItemError(f"no such item: {item_id}")
        return ItemAnswer(**_told(catalogue.item(row)))

    async def checks(self) -> dict[str, bool]:
        """By the name of each thing that lists depend on, whether it answers."""
        worker, store = await asyncio.gather(self.edition.worker.ready(), self._store_answers())
        return {"worker": worker, "history_store": store}

    async def _store_answers(self) -> bool:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._store.ping()
        except (HistoryStoreError, TimeoutError):
            return False
        return True

    def _checked_deadline(self, edition: Edition, query: RecommendQuery) -> float:
        """Seconds for the answer; raises `RequestError` for what the models could not check."""
        settings, max_num_items = self.settings, edition.manifest.decoding.max_num_items
        if query.temperature and _decoding(edition, query) == "beam":
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
        self, edition: Edition, query: RecommendQuery, history: Sequence[str], allowed: bytes | None
    ) -> tuple[DecodeRequest, tuple[str, ...]]:
        """The query in rows, and the items it names that do not exist."""
        seen, unknown = edition.known(history)
        excluded, unknown_exclusions = edition.known(query.exclude_item_ids)
        request = DecodeRequest(
            request_id=uuid.uuid4().hex,
            history=window(seen, edition.manifest.decoding.max_history_items),
            num_items=query.num_items,
            excluded=tuple({*excluded, *seen} if query.exclude_seen else set(excluded)),
            temperature=query.temperature,
            top_p=query.top_p,
            seed=random.getrandbits(63) if query.seed is None else query.seed,
            priority=query.priority,
            decoding=_decoding(edition, query),
            allowed=allowed,
            explain=query.explain,
        )
        return request, tuple(dict.fromkeys(unknown + unknown_exclusions))

    def _popular_items(self, edition: Edition, asked: "_Asked") -> "_Ranking":
        request = asked.request
        reason: FallbackReason = "history_unavailable" if asked.degraded else "cold_start"
        self.metrics.fallbacks.labels(reason).inc()
        rows = edition.popular.first(request.num_items, allowed_rows(request, len(edition.catalogue)))
        return _Ranking(
            rows=[(row, None) for row in rows],
            exhausted=len(rows) < request.num_items,
            model_version=edition.manifest.model_version,
            fallback=reason,
        )

    @contextmanager
    def _counted_errors(self) -> Iterator[None]:
        try:
            yield
        except HistoryStoreError:
            self.metrics.history_store_errors.inc()
            raise


@dataclass(frozen=True, slots=True)
class _Asked:
    """A query in rows.

    Attributes:
        ignored: items that it names and that do not exist.
        clock: its time.
        degraded: the history store was down.
        history_seconds: that reading the history took.
    """

    request: DecodeRequest
    ignored: tuple[str, ...]
    clock: Clock
    degraded: bool
    history_seconds: float


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
    explanation: Explanation | None = None


def _decoding(edition: Edition, query: RecommendQuery) -> Decoding:
    return query.decoding or edition.manifest.decoding.decoding


def _ranking(edition: Edition, request: DecodeRequest, written: DecodedList, model_version: str) -> _Ranking:
    """The model's."""
    is_list = request.decoding == "list"
    explanation = None
    if request.explain and is_list:
        explanation = explanation_of(written, edition.item, len(edition.manifest.code_levels))
    return _Ranking(
        rows=[(item.row, item.score) for item in written.items],
        exhausted=written.exhausted,
        model_version=model_version,
        queue_seconds=written.queue_seconds,
        prefill_seconds=written.prefill_seconds,
        decode_seconds=written.decode_seconds,
        speculation=_speculation(written) if is_list else None,
        explanation=explanation,
    )


def _items(edition: Edition, ranking: _Ranking) -> Iterator[RecommendedItem]:
    for rank, (row, score) in enumerate(ranking.rows, start=1):
        yield _item(edition, rank, row, score)


def _item(edition: Edition, rank: int, row: int, score: float | None) -> RecommendedItem:
    return RecommendedItem(**_told(edition.item(row)), rank=rank, score=score)


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
