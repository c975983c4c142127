"""Records shared by all packages: frozen, plain data, already valid.

The worker speaks *rows*: an item's row is its index in the bundle's `items.parquet`, which is sorted in
trie order, so a row says at once which semantic ID the item has and where it stands among items that
share it. Validation happens at the edge (the gateway's request models); nothing here checks again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

# Smaller ones differ from 0 in name alone, and their reciprocals overflow.
MIN_TEMPERATURE = 0.01
MAX_TEMPERATURE = 2.0
MIN_TOP_P = 0.001

# The longest list that a caller may ask for, and that a target which padrec trains has positions for.
MAX_NUM_ITEMS = 50

Decoding = Literal["list", "beam"]

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
class RememberedList:
    """What a recommendation listed, for further pages and for the events that it led to.

    Attributes:
        recommendation_id: unique among all recommendations.
        user_id: whom it was for.
        item_ids: what it listed, best first.
        before: what those listed that it came after.
    """

    user_id: str
    recommendation_id: str
    item_ids: tuple[str, ...]
    before: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JoinedItem:
    """An item of an event that stands in the recommendation which the event names.

    Attributes:
        rank: at which it stands there, from 1.
        is_first: no event was joined to it before.
    """

    item_id: str
    rank: int
    is_first: bool


@dataclass(frozen=True, slots=True)
class DecodeRequest:
    """A list to be written, in rows.

    Attributes:
        request_id: unique among the requests in flight.
        history: rows of the user's items, oldest first; at least one.
        num_items: how many items to write, at least one.
        excluded: rows that must not be written, in any order, repeats allowed.
        allowed: those of all rows that may be, a bit for each, the first row's the lowest; None: all.
        temperature: 0 takes the most probable token; `MIN_TEMPERATURE` to `MAX_TEMPERATURE` samples.
        top_p: sampling keeps the fewest tokens whose probability reaches this, `MIN_TOP_P` to 1.
        seed: makes a sampled list reproducible, whatever else is in the batch.
        priority: of two requests that wait, the one of the higher goes first.
        decoding: `list` writes one item after another, each knowing those before it; `beam` finds the most probable
            next items, and takes no temperature.
        explain: the list says what its rounds looked at.
        stream: items are told as they are accepted.
    """

    request_id: str
    history: tuple[int, ...]
    num_items: int
    excluded: tuple[int, ...] = ()
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    priority: int = 0
    decoding: Decoding = "list"
    allowed: bytes | None = None
    explain: bool = False
    stream: bool = False


@dataclass(frozen=True, slots=True)
class DecodedItem:
    """One item of a written list.

    Attributes:
        score: the probability, in (0, 1], that the target gave to this item at this place of the list,
            among the items that were still allowed there; of beam decoding, as the next item, whatever else is listed.
    """

    row: int
    score: float


@dataclass(frozen=True, slots=True)
class SpeculationCounts:
    """What became of the draft's guesses for one list.

    Attributes:
        num_drafts: rounds that had guesses to check.
        num_draft_tokens: guessed tokens that were checked; forced tokens are no guesses.
        accepted_per_position: accepted guesses, by the how manyth of its path each was; index 0 is the first.
        accepted_per_slot: accepted guesses by slot.
    """

    num_drafts: int = 0
    num_draft_tokens: int = 0
    accepted_per_position: tuple[int, ...] = ()
    accepted_per_slot: tuple[int, ...] = ()

    @property
    def num_accepted_tokens(self) -> int:
        """Accepted guesses."""
        return sum(self.accepted_per_position)


@dataclass(frozen=True, slots=True)
class TracedToken:
    """A token that a round looked at.

    Attributes:
        slot: that it fills: 0 to L - 1 for codes, L for the separator.
        code: None for a separator.
        parent: which token of the same round it follows; -1: what was certain before the round.
        is_drafted: the draft guessed it, or it was forced after a guess; else the target wrote it.
        is_forced: it was the only one allowed.
        is_accepted: it stands in the list.
        row: the item that it completes; None where it completes none.
    """

    slot: int
    code: int | None
    parent: int
    is_drafted: bool
    is_forced: bool
    is_accepted: bool
    row: int | None


Round = tuple[TracedToken, ...]


@dataclass(frozen=True, slots=True)
class DecodedList:
    """A written list with its timings.

    Attributes:
        exhausted: fewer items than asked for, because no allowed item was left.
        num_rounds: passes of the target after the prefill; of beam decoding, those after the one over the prompt.
        num_forced_tokens: tokens that were the only one allowed.
        queue_seconds: waiting time before the prefill; filled by the worker's loop, 0 before that.
        num_round_tokens: tokens that rounds committed, forced ones and the target's own included; what the
            prefill decided is not counted.
        num_round_forced_tokens: those of them that were forced.
        rounds: what the prefill decided, then every round, of a request that asked for it; of beam decoding, nothing.
    """

    request_id: str
    items: tuple[DecodedItem, ...]
    exhausted: bool
    num_rounds: int
    num_forced_tokens: int
    prefill_seconds: float
    decode_seconds: float
    queue_seconds: float = 0.0
    num_round_tokens: int = 0
    num_round_forced_tokens: int = 0
    speculation: SpeculationCounts = SpeculationCounts()
    rounds: tuple[Round, ...] = ()

    @property
    def accepted_length(self) -> float:
        """Tokens committed per round; 0 without rounds, and of beam decoding, which commits none."""
        return self.num_round_tokens / self.num_rounds if self.num_rounds else 0.0

    @property
    def accepted_length_without_forced(self) -> float:
        """Tokens committed per round that were a choice; 0 without rounds."""
        num_chosen = self.num_round_tokens - self.num_round_forced_tokens
        return num_chosen / self.num_rounds if self.num_rounds else 0.0
