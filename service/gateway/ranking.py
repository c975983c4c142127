"""Rows with their scores, and what callers are told of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.catalog.allowed import allowed_rows
from service.gateway.answer import (
    Explanation,
    FallbackReason,
    RecommendedItem,
    Speculation,
    Timings,
)
from service.gateway.asked import Asked
from service.gateway.edition import Edition
from service.gateway.explanation import explanation_of
from service.gateway.promotions import Placed
from service.telemetry.tracing import Attribute
from service.types import DecodedList, DecodeRequest, Item


@dataclass(frozen=True, slots=True)
class Ranking:
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


def ranking_of(edition: Edition, request: DecodeRequest, written: DecodedList, model_version: str) -> Ranking:
    """The model's."""
    is_list = request.decoding == "list"
    explanation = None
    if request.explain and is_list:
        explanation = explanation_of(written, edition.item, len(edition.manifest.code_levels))
    return Ranking(
        rows=[(item.row, item.score) for item in written.items],
        exhausted=written.exhausted,
        model_version=model_version,
        queue_seconds=written.queue_seconds,
        prefill_seconds=written.prefill_seconds,
        decode_seconds=written.decode_seconds,
        speculation=_speculation(written) if is_list else None,
        explanation=explanation,
    )


def ranking_of_popular(edition: Edition, asked: Asked) -> Ranking:
    """The catalogue's most popular, for want of a history."""
    request = asked.request
    rows = edition.popular.first(request.num_items, allowed_rows(request, len(edition.catalogue)))
    return Ranking(
        rows=[(row, None) for row in rows],
        exhausted=len(rows) < request.num_items,
        model_version=edition.manifest.model_version,
        fallback=asked.stored.fallback,
    )


def ranking_of_check(edition: Edition, asked: Asked) -> Ranking:
    """What there is to tell of a list that nobody writes; takes a while over a large catalogue."""
    request, num_promoted = asked.request, len(asked.promoted)
    num_allowed = int(allowed_rows(request, len(edition.catalogue)).sum()) + num_promoted
    return Ranking(
        rows=(),
        exhausted=num_allowed < request.num_items + num_promoted,
        model_version=edition.manifest.model_version,
        fallback=None if request.history or not request.num_items else asked.stored.fallback,
        num_allowed_items=num_allowed,
    )


def timings_of(asked: Asked, ranking: Ranking) -> Timings:
    """Where the time went, until now."""
    return Timings(
        history_ms=_milliseconds(asked.history_seconds),
        queue_ms=_milliseconds(ranking.queue_seconds),
        prefill_ms=_milliseconds(ranking.prefill_seconds),
        decode_ms=_milliseconds(ranking.decode_seconds),
        total_ms=_milliseconds(asked.clock.elapsed()),
    )


def recommended(edition: Edition, place: Placed) -> RecommendedItem:
    """The item at a place of a list."""
    item = item_fields(edition.item(place.row))
    return RecommendedItem(**item, rank=place.rank, score=place.score, promoted=place.promoted)


def item_fields(item: Item) -> dict[str, Any]:
    """The fields of an item's answer."""
    return {"item_id": item.item_id, "title": item.title, "attributes": dict(item.attributes)}


def trace_of(asked: Asked, ranking: Ranking) -> dict[str, Attribute]:
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


def _speculation(written: DecodedList) -> Speculation:
    return Speculation(
        rounds=written.num_rounds,
        accepted_length=round(written.accepted_length, 3),
        accepted_length_without_forced=round(written.accepted_length_without_forced, 3),
    )


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 3)
