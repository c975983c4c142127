"""The use case, whatever the protocol: a query becomes rows, rows become a list, the list becomes items."""

import asyncio
import random
import time
import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import dataclass, replace
from typing import Any

import structlog

from service.catalog.allowed import allowed_rows, allows
from service.catalog.window import window
from service.config import GatewaySettings
from service.errors import HistoryStoreError, NoSuchItemError, PadrecError, RequestError
from service.gateway.answer import (
    EventsAccepted,
    Explanation,
    FallbackReason,
    ItemAnswer,
    Recommendation,
    RecommendedItem,
    Speculation,
    Timings,
)
from service.gateway.clicks import Clicks
from service.gateway.clock import Clock
from service.gateway.edition import Edition
from service.gateway.explanation import explanation_of
from service.gateway.left_out import LeftOut
from service.gateway.pages import Pages
from service.gateway.promotions import Placed, Places, placed, promoted_rows
from service.gateway.query import NewEvent, RecommendQuery
from service.gateway.store_calls import asking_store
from service.gateway.stored import Stored, read_stored
from service.gateway.withdrawals import Withdrawals
from service.history.store import HistoryStore
from service.telemetry.logs import about
from service.telemetry.metrics import CHECKS, GatewayMetrics
from service.telemetry.tracing import Attribute, Span, say, span
from service.types import DecodedItem, DecodedList, DecodeRequest, Decoding, Event, Item, RememberedList

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
                                    yield _item(edition, place)
                            else:
                                ranking = _ranking(edition, asked.request, *update)
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
            ranking = _ranking(edition, asked.request, *written)
        else:
            ranking = await self._not_written(edition, asked)
        return await self._recommendation(edition, query, asked, ranking)

    async def _asked(self, edition: Edition, query: RecommendQuery) -> "_Asked":
        """What the worker is asked for."""
        about([query.user_id])
        clock = Clock(self._checked_deadline(edition, query))
        seconds = _STORE_SHARE * clock.remaining()
        stored = await read_stored(query, self._store, self._pages, self.metrics, seconds)
        history_seconds = clock.elapsed()
        # Off the loop: a filter that is new takes a while over a large catalogue.
        wanted = None
        if query.filter is not None:
            with span("filter"):
                wanted = await asyncio.to_thread(edition.filters.bits, query.filter)
        left_out = edition.left_out(self.withdrawals.now)
        request, promoted, ignored = _request(edition, query, stored, wanted, left_out)
        return _Asked(
            request, promoted, ignored, stored, clock, history_seconds, validate_only=query.validate_only
        )

    async def _recommendation(
        self, edition: Edition, query: RecommendQuery, asked: "_Asked", ranking: "_Ranking"
    ) -> Recommendation:
        """What the caller is told, and what is remembered of it."""
        say(_told_of(asked, ranking))
        items: tuple[RecommendedItem, ...] = ()
        if not asked.validate_only:
            items = tuple(_item(edition, place) for place in placed(ranking.rows, asked.promoted))
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
            timings=Timings(
                history_ms=_milliseconds(asked.history_seconds),
                queue_ms=_milliseconds(ranking.queue_seconds),
                prefill_ms=_milliseconds(ranking.prefill_seconds),
                decode_ms=_milliseconds(ranking.decode_seconds),
                total_ms=_milliseconds(asked.clock.elapsed()),
            ),
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
        return ItemAnswer(**_told(catalogue.item(row)))

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

    async def _not_written(self, edition: Edition, asked: "_Asked") -> "_Ranking":
        """What there is without the worker: a check, promoted items alone, or popular ones."""
        if asked.validate_only:
            return await asyncio.to_thread(_checked, edition, asked)
        if asked.request.num_items == 0:
            return _Ranking(rows=(), exhausted=False, model_version=edition.manifest.model_version)
        return self._popular_items(edition, asked)

    def _popular_items(self, edition: Edition, asked: "_Asked") -> "_Ranking":
        request, reason = asked.request, asked.stored.fallback
        self.metrics.fallbacks.labels(reason).inc()
        rows = edition.popular.first(request.num_items, allowed_rows(request, len(edition.catalogue)))
        return _Ranking(
            rows=[(row, None) for row in rows],
            exhausted=len(rows) < request.num_items,
            model_version=edition.manifest.model_version,
            fallback=reason,
        )


@dataclass(frozen=True, slots=True)
class _Asked:
    """A query in rows.

    Attributes:
        request: for what is not promoted.
        promoted: rows, by rank.
        ignored: items that it names and that do not exist.
        stored: what else it is about.
        clock: its time.
        history_seconds: that reading the history took.
        validate_only: nothing is listed.
    """

    request: DecodeRequest
    promoted: Mapping[int, int]
    ignored: tuple[str, ...]
    stored: Stored
    clock: Clock
    history_seconds: float
    validate_only: bool

    @property
    def is_written(self) -> bool:
        """The worker is asked."""
        request = self.request
        return bool(request.history) and request.num_items > 0 and not self.validate_only


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
    num_allowed_items: int | None = None


def _decoding(edition: Edition, query: RecommendQuery) -> Decoding:
    return query.decoding or edition.manifest.decoding.decoding


def _request(
    edition: Edition, query: RecommendQuery, stored: Stored, wanted: bytes | None, left_out: LeftOut
) -> tuple[DecodeRequest, dict[int, int], tuple[str, ...]]:
    """What is to be written, in rows, what is promoted, by rank, and the items named that do not exist."""
    seen, unknown = edition.known(stored.history)
    excluded, unknown_exclusions = edition.known(query.exclude_item_ids)
    _, unknown_promotions = edition.known(promotion.item_id for promotion in query.promotions)
    kept_out = {*excluded, *edition.known(stored.before)[0], *left_out.rows}
    request = DecodeRequest(
        request_id=uuid.uuid4().hex,
        history=window(seen, edition.manifest.decoding.max_history_items),
        num_items=query.num_items,
        excluded=tuple(kept_out),
        temperature=query.temperature,
        top_p=query.top_p,
        seed=random.getrandbits(63) if query.seed is None else query.seed,
        priority=query.priority,
        decoding=_decoding(edition, query),
        allowed=left_out.allowed if wanted is None else left_out.within(wanted),
        explain=query.explain,
    )
    # Not by what was seen: who promotes an item for this user means it.
    promoted = promoted_rows(query.promotions, edition.catalogue.row_of, allows(request))
    request = replace(
        request,
        num_items=query.num_items - len(promoted),
        excluded=tuple(kept_out.union(promoted.values(), seen if query.exclude_seen else ())),
    )
    return request, promoted, tuple(dict.fromkeys(unknown + unknown_exclusions + unknown_promotions))


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


def _asking_worker(request: DecodeRequest) -> AbstractContextManager[Span]:
    """Around the worker's time."""
    asked = {
        "padrec.num_history_items": len(request.history),
        "padrec.num_excluded_items": len(request.excluded),
    }
    return span("worker.decode", asked, to_other=True)


def _told_of(asked: _Asked, ranking: _Ranking) -> dict[str, Attribute]:
    """What a trace says of a list; nothing of whom it is for."""
    request = asked.request
    told: dict[str, Attribute] = {
        "padrec.num_items": request.num_items + len(asked.promoted),
        "padrec.decoding": request.decoding,
        "padrec.degraded": asked.stored.degraded,
        "padrec.exhausted": ranking.exhausted,
        "padrec.model_version": ranking.model_version,
    }
    return told if ranking.fallback is None else told | {"padrec.fallback": ranking.fallback}


def _checked(edition: Edition, asked: _Asked) -> _Ranking:
    """What there is to tell of a list that nobody writes; takes a while over a large catalogue."""
    request, num_promoted = asked.request, len(asked.promoted)
    num_allowed = int(allowed_rows(request, len(edition.catalogue)).sum()) + num_promoted
    return _Ranking(
        rows=(),
        exhausted=num_allowed < request.num_items + num_promoted,
        model_version=edition.manifest.model_version,
        fallback=None if request.history or not request.num_items else asked.stored.fallback,
        num_allowed_items=num_allowed,
    )


def _item(edition: Edition, place: Placed) -> RecommendedItem:
    item = _told(edition.item(place.row))
    return RecommendedItem(**item, rank=place.rank, score=place.score, promoted=place.promoted)


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
