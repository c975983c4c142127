"""The use case, whatever the protocol: a query becomes rows, rows become a list, the list becomes items."""

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing

import structlog

from service.config import GatewaySettings
from service.errors import HistoryStoreError, NoSuchItemError, PadrecError, RequestError
from service.gateway.answer import EventsAccepted, ItemAnswer, Recommendation, RecommendedItem
from service.gateway.asked import Asked, deadline_of, request_of
from service.gateway.clicks import Clicks
from service.gateway.clock import Clock
from service.gateway.edition import Edition
from service.gateway.pages import Pages
from service.gateway.promotions import Places, placed
from service.gateway.query import NewEvent, RecommendQuery
from service.gateway.ranking import (
    Ranking,
    item_fields,
    ranking_of,
    ranking_of_check,
    ranking_of_popular,
    recommended,
    timings_of,
    trace_of,
)
from service.gateway.store_calls import asking_store
from service.gateway.stored import read_stored
from service.gateway.withdrawals import Withdrawals
from service.history.store import HistoryStore
from service.telemetry.logs import about
from service.telemetry.metrics import CHECKS, GatewayMetrics
from service.telemetry.tracing import Span, say, span
from service.types import DecodedItem, DecodeRequest, Event, RememberedList

_log = structlog.get_logger(__name__)

_CHECK_SECONDS = 1.0
# Of the deadline's rest: a store that hangs longer counts as down, while there is time to answer without it.
_STORE_SHARE = 1 / 3
# Of what is left when the list is written, to have it remembered.
_REMEMBER_SHARE = 1 / 10


class Recommender:
    """Answers queries on the edition that is served at their start.

    Args:
        edition: what is served.
        history_store: users' histories, and their latest lists.
        withdrawals: what is not listed for now.
        settings: bounds and deadlines.
        metrics: what to count in.

    Attributes:
        edition: what requests take that start now; assigned to serve another.
        is_draining: whether the process is about to end, so that nobody new should come; set by it.
    """

    def __init__(
        self,
        edition: Edition,
        history_store: HistoryStore,
        withdrawals: Withdrawals,
        settings: GatewaySettings,
        metrics: GatewayMetrics,
    ) -> None:
        self.edition = edition
        self.withdrawals = withdrawals
        self.settings = settings
        self.metrics = metrics
        self.is_draining = False
        self._store = history_store
        self._pages = Pages(history_store, metrics, settings.max_excluded_items)
        self._clicks = Clicks(history_store, metrics)

    async def recommend(self, query: RecommendQuery) -> Recommendation:
        """A list for a user.

        Raises:
            RequestError: the query is beyond a bound of the settings or the bundle.
            NoSuchRecommendationError: the list that it comes after is not remembered.
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
            ranking, places = None, Places(asked.promoted)
            if asked.is_written:
                timeout = asked.clock.remaining()
                stream = edition.worker.decode_stream(asked.request, timeout=timeout)
                with _asking_worker(asked.request):
                    async with aclosing(stream) as updates:
                        async for update in updates:
                            if isinstance(update, DecodedItem):
                                for place in places.written(update.row, update.score):
                                    yield recommended(edition, place)
                            else:
                                ranking = ranking_of(edition, asked.request, *update)
            ranking = ranking or await self._not_written(edition, asked)
            answer = await self._recommendation(edition, query, asked, ranking)
            for item in answer.items[places.num_placed :]:
                yield item
            yield answer

    async def _recommend(self, edition: Edition, query: RecommendQuery) -> Recommendation:
        asked = await self._asked(edition, query)
        if asked.is_written:
            with _asking_worker(asked.request):
                written = await edition.worker.decode(asked.request, timeout=asked.clock.remaining())
            ranking = ranking_of(edition, asked.request, *written)
        else:
            ranking = await self._not_written(edition, asked)
        return await self._recommendation(edition, query, asked, ranking)

    async def _asked(self, edition: Edition, query: RecommendQuery) -> Asked:
        """What the worker is asked for."""
        about([query.user_id])
        clock = Clock(deadline_of(edition, query, self.settings))
        seconds = _STORE_SHARE * clock.remaining()
        stored = await read_stored(query, self._store, self._pages, self.metrics, seconds)
        history_seconds = clock.elapsed()
        # Off the loop: a filter that is new takes a while over a large catalogue.
        wanted = None
        if query.filter is not None:
            with span("filter"):
                wanted = await asyncio.to_thread(edition.filters.bits, query.filter)
        left_out = edition.left_out(self.withdrawals.now)
        request, promoted, ignored = request_of(edition, query, stored, wanted, left_out)
        return Asked(
            request, promoted, ignored, stored, clock, history_seconds, validate_only=query.validate_only
        )

    async def _recommendation(
        self, edition: Edition, query: RecommendQuery, asked: Asked, ranking: Ranking
    ) -> Recommendation:
        """What the caller is told, and what is remembered of it."""
        say(trace_of(asked, ranking))
        items: tuple[RecommendedItem, ...] = ()
        if not asked.validate_only:
            items = tuple(recommended(edition, place) for place in placed(ranking.rows, asked.promoted))
            item_ids = tuple(item.item_id for item in items)
            listed = RememberedList(query.user_id, asked.request.request_id, item_ids, asked.stored.before)
            await self._pages.listed(listed, asked.clock.share(_REMEMBER_SHARE))
        return Recommendation(
            recommendation_id="" if asked.validate_only else asked.request.request_id,
            user_id=query.user_id,
            items=items,
            model_version=ranking.model_version,
            catalog_version=edition.manifest.catalog_version,
            fallback=ranking.fallback,
            degraded=asked.stored.degraded,
            exhausted=ranking.exhausted,
            ignored_item_ids=asked.ignored,
            timings=timings_of(asked, ranking),
            speculation=ranking.speculation,
            explanation=ranking.explanation,
            num_allowed_items=ranking.num_allowed_items,
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
                *(self._recommend_one(edition, query) for query in queries), return_exceptions=True
            )
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, PadrecError):
                raise answer
        return answers  # type: ignore[return-value]

    async def _recommend_one(self, edition: Edition, query: RecommendQuery) -> Recommendation:
        """A list of a batch."""
        with span("list"):
            return await self._recommend(edition, query)

    async def record_events(self, events: Sequence[NewEvent]) -> EventsAccepted:
        """Make events durable, all or none; those without a timestamp happened now.

        Items that the catalogue does not hold are recorded too, since a later bundle may know them.

        Raises:
            RequestError: there are too many.
            HistoryStoreError: nothing was recorded, as far as is known; sent again, events with an ID count once.
        """
        about(event.user_id for event in events)
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
        async with asking_store(self.metrics, "append"):
            await self._store.append(records)
        unknown = self.edition.known(event.item_id for event in events)[1]
        return EventsAccepted(
            accepted=len(events),
            ignored_item_ids=tuple(dict.fromkeys(unknown)),
            joined=await self._clicks.join(events),
        )

    async def get_history(self, user_id: str) -> list[str]:
        """The user's stored items, oldest first; raises `HistoryStoreError`."""
        about([user_id])
        async with asking_store(self.metrics, "get"):
            return await self._store.get(user_id)

    async def delete_history(self, user_id: str) -> None:
        """Forget a user, and the lists that they got; raises `HistoryStoreError`."""
        about([user_id])
        async with asking_store(self.metrics, "delete"):
            await self._store.delete(user_id)

    def get_item(self, item_id: str) -> ItemAnswer:
        """An item of the catalogue; raises `NoSuchItemError`."""
        catalogue = self.edition.catalogue
        row = catalogue.row_of(item_id)
        if row is None:
            raise NoSuchItemError(f"no such item: {item_id}")
        return ItemAnswer(**item_fields(catalogue.item(row)))

    async def withdraw(self, item_ids: Sequence[str]) -> tuple[str, ...]:
        """Never list these items again until they are restored, not even promoted: no request that starts now does.

        Returns:
            Items that the catalogue does not hold: withdrawn too, since a later bundle may know them.

        Raises:
            RequestError: too many would be withdrawn.
            HistoryStoreError: the store is down.
        """
        async with asking_store(self.metrics, "withdraw"):
            await self.withdrawals.withdraw(item_ids)
        return tuple(dict.fromkeys(self.edition.known(item_ids)[1]))

    async def restore(self, item_ids: Sequence[str]) -> tuple[str, ...]:
        """List these items again; tells and raises what `withdraw` does, but for the bound."""
        async with asking_store(self.metrics, "restore"):
            await self.withdrawals.restore(item_ids)
        return tuple(dict.fromkeys(self.edition.known(item_ids)[1]))

    async def checks(self) -> dict[str, bool]:
        """By the name of each thing that lists depend on, whether it answers."""
        worker, store = await asyncio.gather(self.edition.worker.ready(), self._store_answers())
        # Without it nobody knows what must not be listed.
        return {"worker": worker, "history_store": store and self.withdrawals.is_known}

    async def tell_state(self) -> None:
        """Set the metrics of what is served now, and of what answers; it takes no longer than the checks."""
        try:
            checks = await self.checks()
        except Exception as error:  # all other metrics are told nevertheless
            _log.exception("readiness cannot be told", exc_info=error)
            checks = dict.fromkeys(CHECKS, False)
        for name, passed in checks.items():
            self.metrics.ready.labels(name).set(passed)
        manifest = self.edition.manifest
        self.metrics.bundle.clear()
        self.metrics.bundle.labels(manifest.model_version, manifest.catalog_version).set(1)

    async def _store_answers(self) -> bool:
        try:
            async with asyncio.timeout(_CHECK_SECONDS):
                await self._store.ping()
        except (HistoryStoreError, TimeoutError):
            return False
        return True

    async def _not_written(self, edition: Edition, asked: Asked) -> Ranking:
        """What there is without the worker: a check, promoted items alone, or popular ones."""
        if asked.validate_only:
            return await asyncio.to_thread(ranking_of_check, edition, asked)
        if asked.request.num_items == 0:
            return Ranking(rows=(), exhausted=False, model_version=edition.manifest.model_version)
        self.metrics.fallbacks.labels(asked.stored.fallback).inc()
        return ranking_of_popular(edition, asked)


def _asking_worker(request: DecodeRequest) -> AbstractContextManager[Span]:
    """Around the worker's time."""
    asked = {
        "padrec.num_history_items": len(request.history),
        "padrec.num_excluded_items": len(request.excluded),
    }
    return span("worker.decode", asked, to_other=True)
