"""What callers are told."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from service.types import AttributeValue

FallbackReason = Literal["cold_start", "history_unavailable"]


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, protected_namespaces=(), hide_input_in_errors=True)


class ItemAnswer(_Answer):
    """An item of the catalogue."""

    item_id: str
    title: str
    attributes: dict[str, AttributeValue]


class RecommendedItem(ItemAnswer):
    """An item of a list."""

    rank: int = Field(description="From 1, best first.")
    score: float | None = Field(
        description="The model's probability, in (0, 1], of this item at this place, or, of beam decoding, as the next "
        "item; null in a fallback list, and of a promoted item."
    )
    promoted: bool = Field(description="It stands where the request's `promotions` want it.")


class Timings(_Answer):
    """Where the time went, in milliseconds."""

    history_ms: float = Field(description="Reading the stored history.")
    queue_ms: float = Field(description="Waiting for the worker.")
    prefill_ms: float = Field(description="Reading the history into the model.")
    decode_ms: float = Field(description="Writing the list.")
    total_ms: float


class Speculation(_Answer):
    """How far each pass of the model came."""

    rounds: int = Field(description="Passes of the model after it had read the history.")
    accepted_length: float = Field(description="Tokens written per round, forced ones included.")
    accepted_length_without_forced: float = Field(
        description="Tokens written per round, without those that were the only one allowed."
    )


class ExplainedToken(_Answer):
    """A token that a round looked at."""

    slot: int = Field(description="That it fills: from 0 for codes of the semantic ID, then the separator.")
    code: int | None = Field(description="null for a separator.")
    parent: int = Field(
        description="Which token of the same round it follows, from 0; -1: what was certain before the round."
    )
    drafted: bool = Field(
        description="The draft guessed it, or it was forced after a guess; else the target wrote it."
    )
    forced: bool = Field(description="It was the only one allowed.")
    accepted: bool = Field(description="It stands in the list.")
    item_id: str | None = Field(description="The item that it completes, if it completes one.")
    title: str | None = Field(description="Of that item.")


class ExplainedRound(_Answer):
    """What one pass of the target looked at: the guesses, best first, then what it wrote itself."""

    tokens: tuple[ExplainedToken, ...]


class Explanation(_Answer):
    """How a list came about."""

    rounds: tuple[ExplainedRound, ...] = Field(
        description="First what was decided when the history had been read, then every round."
    )
    accepted_tokens: int = Field(description="Guesses that stand in the list.")
    rejected_tokens: int = Field(description="Guesses that do not.")
    forced_tokens: int = Field(description="Tokens of the list that were the only one allowed.")
    candidates_per_slot: tuple[int, ...] = Field(
        description="Guesses that were checked, by slot; forced tokens are none."
    )
    accepted_per_slot: tuple[int, ...] = Field(description="Those of them that stand in the list.")


class Recommendation(_Answer):
    """A list of distinct items, best first."""

    recommendation_id: str = Field(
        description="Names this list, for further pages and for events; empty of `validate_only`."
    )
    user_id: str
    items: tuple[RecommendedItem, ...]
    model_version: str
    catalog_version: str
    fallback: FallbackReason | None = Field(
        description="Why the list is of popular items rather than the model's; null: it is the model's."
    )
    degraded: bool = Field(description="The history store was down.")
    exhausted: bool = Field(description="Fewer items than asked for, because no other item was allowed.")
    ignored_item_ids: tuple[str, ...] = Field(
        description="Items of the history, the exclusions or the promotions that the catalogue does not hold."
    )
    timings: Timings
    speculation: Speculation | None = Field(
        description="How far each pass of the model came; null in a fallback list and of beam decoding."
    )
    explanation: Explanation | None = Field(
        None,
        description="How the list came about, if it was asked for; null in a fallback list and of beam decoding.",
    )
    num_allowed_items: int | None = Field(
        description="Of `validate_only`: how many items may be listed, promoted ones included; otherwise null."
    )


class EventsAccepted(_Answer):
    """The events are durable."""

    accepted: int
    ignored_item_ids: tuple[str, ...] = Field(
        description="Items that the catalogue does not hold: recorded, and ignored until it does."
    )
    joined: int = Field(
        description="How many of them stand in the recommendation of their user that they name, as long as it is "
        "remembered."
    )


class UserHistory(_Answer):
    """A user's stored history."""

    user_id: str
    item_ids: tuple[str, ...] = Field(description="Oldest first.")


class FieldError(_Answer):
    """What is wrong with one field of the request."""

    field: str = Field(description="Its name, with the index inside a list: `events.0.item_id`.")
    message: str


class Problem(_Answer):
    """What went wrong (RFC 9457)."""

    type: str = "about:blank"
    title: str = Field(description="The status in words.")
    status: int
    detail: str
    errors: tuple[FieldError, ...] | None = Field(None, description="Only where fields are at fault.")
