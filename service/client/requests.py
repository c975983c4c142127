"""What callers give, named and described as in `service/gateway/query.py`, which checks it."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Required, TypedDict

from service.types import Decoding


class Promotion(TypedDict):
    """An item, and where in the list it stands, from 1."""

    item_id: str
    rank: int


class RecommendOptions(TypedDict, total=False):
    """What may be said of a list; what is not said is as the service has it, but for `deadline_ms`."""

    num_items: int
    history: Sequence[str] | None
    exclude_item_ids: Sequence[str]
    exclude_seen: bool
    filter: Mapping[str, Any] | None
    priority: int
    deadline_ms: int | None
    decoding: Decoding | None
    temperature: float
    top_p: float
    seed: int | None
    explain: bool
    promotions: Sequence[Promotion]
    after_recommendation_id: str | None
    validate_only: bool


class RecommendRequest(RecommendOptions):
    """A list of a batch."""

    user_id: Required[str]


class NewEvent(TypedDict, total=False):
    """A user met an item; `timestamp` is seconds since the epoch, or has a time zone."""

    user_id: Required[str]
    item_id: Required[str]
    timestamp: float | str | datetime | None
    event_id: str | None
    recommendation_id: str | None
