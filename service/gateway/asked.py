"""A query in rows: what the worker is asked for."""

import random
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

from service.catalog.allowed import allows
from service.catalog.window import window
from service.config import GatewaySettings
from service.errors import RequestError
from service.gateway.clock import Clock
from service.gateway.edition import Edition
from service.gateway.left_out import LeftOut
from service.gateway.promotions import promoted_rows
from service.gateway.query import RecommendQuery
from service.gateway.stored import Stored
from service.types import DecodeRequest, Decoding


@dataclass(frozen=True, slots=True)
class Asked:
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


def deadline_of(edition: Edition, query: RecommendQuery, settings: GatewaySettings) -> float:
    """Seconds for the answer; raises `RequestError` for what the models could not check."""
    max_num_items = edition.manifest.decoding.max_num_items
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


def request_of(
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


def _decoding(edition: Edition, query: RecommendQuery) -> Decoding:
    return query.decoding or edition.manifest.decoding.decoding
