"""What callers ask, valid once built: the edge of the service.

Bounds that depend on settings or on the bundle are checked by the recommender.
"""

from datetime import datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from service.catalog.filters import MAX_CONDITIONS, MAX_DEPTH, MAX_VALUES, Filter
from service.types import MAX_NUM_ITEMS, MAX_TEMPERATURE, MIN_TEMPERATURE, MIN_TOP_P, Decoding

MAX_ID_LENGTH = 256
MAX_PRIORITY = 10
MAX_PROMOTIONS = 10

UserId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH)]
ItemId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH)]
RecommendationId = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH)]


def _not_almost_zero(temperature: float) -> float:
    if 0 < temperature < MIN_TEMPERATURE:
        raise ValueError(f"give 0, or {MIN_TEMPERATURE} to {MAX_TEMPERATURE:g}")
    return temperature


def _not_too_large(wanted: Filter) -> Filter:
    num_conditions = sum(1 for _ in wanted.conditions())
    if num_conditions > MAX_CONDITIONS or wanted.depth > MAX_DEPTH or wanted.num_values > MAX_VALUES:
        raise ValueError(
            f"at most {MAX_CONDITIONS} conditions, {MAX_DEPTH} deep, of {MAX_VALUES} values in all"
        )
    return wanted


class _Query(BaseModel):
    # Errors are logged where nobody expected them; what was given may name a user.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Promotion(_Query):
    """An item, and where in the list it stands."""

    item_id: ItemId
    rank: int = Field(strict=True, ge=1, le=MAX_NUM_ITEMS, description="From 1, within `num_items`.")


class RecommendQuery(_Query):
    """Which items should this user see next?"""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"user_id": "user-42"},
                {"user_id": "user-42", "history": ["item-7", "item-19"], "num_items": 5},
            ]
        }
    )

    user_id: UserId
    num_items: int = Field(10, strict=True, ge=1, le=MAX_NUM_ITEMS, description="How many items to list.")
    history: tuple[ItemId, ...] | None = Field(
        None, description="The user's items, oldest first, instead of the stored history; [] for a new user."
    )
    exclude_item_ids: tuple[ItemId, ...] = Field((), description="Items that must not be listed.")
    filter: Annotated[Filter, AfterValidator(_not_too_large)] | None = Field(
        None, description="Only items that meet it are listed."
    )
    exclude_seen: bool = Field(True, strict=True, description="Do not list items of the history either.")
    priority: int = Field(
        0,
        strict=True,
        ge=-MAX_PRIORITY,
        le=MAX_PRIORITY,
        description="Of two requests that wait, the one of the higher priority goes first.",
    )
    deadline_ms: int | None = Field(
        None,
        strict=True,
        ge=1,
        description="Time for the answer, in milliseconds; null: the service's default.",
    )
    decoding: Decoding | None = Field(
        None,
        description="list: item by item, each knowing those before it; beam: the most probable next items, which are "
        "not sampled; null: as the bundle says, which is list unless it was built for beam.",
    )
    temperature: Annotated[float, AfterValidator(_not_almost_zero)] = Field(
        0.0,
        strict=True,
        ge=0,
        le=MAX_TEMPERATURE,
        description=f"0 writes the most probable list; from {MIN_TEMPERATURE} on samples one.",
    )
    top_p: float = Field(
        1.0,
        strict=True,
        ge=MIN_TOP_P,
        le=1,
        description="Sampling keeps the likeliest tokens up to this probability.",
    )
    seed: int | None = Field(
        None,
        strict=True,
        ge=0,
        lt=2**63,
        description="Makes a sampled list reproducible; null: another each time.",
    )
    explain: bool = Field(False, strict=True, description="Say how the list came about, round by round.")
    promotions: tuple[Promotion, ...] = Field(
        (),
        max_length=MAX_PROMOTIONS,
        description="Items that stand at these ranks whatever the model writes, seen or not; those that the filter, "
        "`exclude_item_ids` or an earlier page keeps out do not. Distinct items and ranks.",
    )
    after_recommendation_id: RecommendationId | None = Field(
        None,
        description="The next page: nothing is listed that this recommendation of the user listed, or those that it "
        "came after. 404 where it is not remembered.",
    )
    validate_only: bool = Field(
        False,
        strict=True,
        description="Only check the request: the answer is without items, `num_allowed_items` says how many there are "
        "to choose from, and the model is not asked.",
    )

    @field_validator("promotions")
    @classmethod
    def _stand_apart(cls, promotions: tuple[Promotion, ...], info: ValidationInfo) -> tuple[Promotion, ...]:
        ranks = [promotion.rank for promotion in promotions]
        if len(set(ranks)) < len(ranks):
            raise ValueError("a rank stands twice")
        if len({promotion.item_id for promotion in promotions}) < len(ranks):
            raise ValueError("an item stands twice")
        if max(ranks, default=0) > info.data.get("num_items", MAX_NUM_ITEMS):
            raise ValueError("a rank is beyond num_items")
        return promotions


class RecommendBatch(_Query):
    """Lists for many users at once; one that is malformed refuses them all."""

    requests: tuple[RecommendQuery, ...] = Field(
        min_length=1, description="Each is answered or refused by itself, in this order."
    )


def _seconds(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ValueError("give seconds since the epoch, or ISO 8601 with a time zone")
    return moment.timestamp()


Timestamp = Annotated[
    float,
    # Up to the year 9999: what is larger was given in milliseconds.
    Field(strict=True, ge=0, le=253_402_300_799),
    BeforeValidator(_seconds),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "format": "date-time"}]}),
]


class NewEvent(_Query):
    """A user met an item."""

    user_id: UserId
    item_id: ItemId
    timestamp: Timestamp | None = Field(
        None, description="Seconds since the epoch, or ISO 8601 with a time zone; null: now."
    )
    event_id: Annotated[str, StringConstraints(min_length=1, max_length=MAX_ID_LENGTH)] | None = Field(
        None, description="Your key for this event: sent again with the same key, it counts once."
    )
    recommendation_id: RecommendationId | None = Field(
        None,
        description="The recommendation that led to it, to be counted as a click; an unknown one is no error.",
    )


class EventBatch(_Query):
    """Events to be recorded, all or none of them; in a Redis cluster, of each user's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "events": [
                        {
                            "user_id": "user-42",
                            "item_id": "item-7",
                            "timestamp": "2026-01-31T12:00:00Z",
                            "event_id": "order-1001",
                        }
                    ]
                }
            ]
        }
    )

    events: tuple[NewEvent, ...] = Field(min_length=1)
