"""What a history store does; `tests/history/test_contract.py` holds every store to it."""

from collections.abc import Sequence
from typing import Protocol

from service.types import Event, JoinedItem, RememberedList

EVENT_IDS_PER_ITEM = 4
MAX_LISTS = 100


class HistoryStore(Protocol):
    """Users' items, by time, and for a while the lists that they were recommended.

    A history is ordered by timestamp, equal timestamps by arrival, and keeps the newest `max_items` events;
    a user may meet an item many times. An event whose `event_id` is among the last
    `EVENT_IDS_PER_ITEM * max_items` that the user sent changes nothing, so a caller that is not sure whether
    an append arrived sends it again.

    Of a user the latest `MAX_LISTS` lists are remembered, for the time that the store was opened with; where that is
    none, none are. Unlike events they may be lost with the power, not with a process.

    Every method raises `HistoryStoreError` when the store cannot be read or written now.
    """

    async def append(self, events: Sequence[Event]) -> None:
        """Add events, all or none of them; when this returns they survive a kill of any process.

        A Redis cluster holds to 'all or none' for each user by itself.
        """
        ...

    async def get(self, user_id: str) -> list[str]:
        """The user's item IDs, oldest first; empty for an unknown user."""
        ...

    async def delete(self, user_id: str) -> None:
        """Forget everything about a user; an unknown one is no error."""
        ...

    async def remember(self, listed: RememberedList) -> None:
        """Know a list from now on."""
        ...

    async def recall(self, user_id: str, recommendation_id: str) -> RememberedList | None:
        """A list of the user; None where none of this ID is remembered."""
        ...

    async def join(self, user_id: str, recommendation_id: str, item_ids: Sequence[str]) -> list[JoinedItem]:
        """Note that events of these items name a list of the user.

        Args:
            user_id: of the events.
            recommendation_id: that they name; one that is not remembered holds nothing.
            item_ids: distinct ones.

        Returns:
            Those that the list holds, in their order.
        """
        ...

    async def ping(self) -> None:
        """Return when the store answers."""
        ...

    async def close(self) -> None:
        """Let go of files, threads and connections; nothing may be called after this."""
        ...
