"""Records shared by all packages: frozen, plain data, already valid.

The worker speaks *rows*: an item's row is its index in the bundle's `items.parquet`, which is sorted in
trie order, so a row says at once which semantic ID the item has and where it stands among items that
share it. Validation happens at the edge (the gateway's request models); nothing here checks again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Smaller ones differ from 0 in name alone, and their reciprocals overflow.
MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 2.0
MIN_TOP_P = 0.001

# The longest list that a caller may ask for, and that a target which padrec trains has positions for.
MAX_NUM_ITEMS = 50

AttributeValue = str | int | float | bool | list[str] | None


@dataclass(frozen=True, slots=True)
class Item:
    """What a caller knows of an item."""

    item_id: str
    title: str
    attributes: Mapping[str, AttributeValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """A user met an item.

    Attributes:
        timestamp: seconds since the epoch.
        event_id: the caller's key for this event; a second event of the same user with the same key
            changes nothing. None: every event counts.
    """

    user_id: str
    item_id: str
    timestamp: float
    event_id: str | None = None


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """A list to be written, in rows.

    Attributes:
        request_id: unique among the requests in flight.
        history: rows of the user's items, oldest first; at least one.
        num_items: how many items to write, at least one.
        excluded: rows that must not be written, in any order, repeats allowed.
        temperature: 0 takes the most probable token; `MIN_TEMPERATURE` to `MAX_TEMPERATURE` samples.
        top_p: sampling keeps the fewest tokens whose probability reaches this, `MIN_TOP_P` to 1.
        seed: makes a sampled list reproducible, whatever else is in the batch.
    """

    request_id: str
    history: tuple[int, ...]
    num_items: int
    excluded: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class DecodedItem:
    """One item of a written list.

    Attributes:
        score: the probability, in (0, 1], that the target gave to this item at this place of the list,
            among the items that were still allowed there.
    """

    row: int
    score: float


@dataclass(frozen=True, slots=True)
class DecodedList:
    """A written list with its timings.

    Attributes:
        exhausted: fewer items than asked for, because no allowed item was left.
        num_rounds: how often tokens were taken from the target; the first time they are decided by the prefill.
        num_forced_tokens: tokens that were the only one allowed.
        queue_seconds: waiting time before the prefill; filled by the worker's loop, 0 before that.
    """

    request_id: str
    items: tuple[DecodedItem, ...]
    exhausted: bool
    num_rounds: int
    num_forced_tokens: int
    prefill_seconds: float
    decode_seconds: float
    queue_seconds: float = 0.0
