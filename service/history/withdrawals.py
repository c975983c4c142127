"""Which items are withdrawn for now; kept beside the histories, for every gateway that shares them.

`tests/history/test_withdrawals.py` holds every store to this.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from service.errors import RequestError


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """Items that are not to be listed.

    Attributes:
        version: another one whenever the set is.
    """

    version: str = ""
    item_ids: frozenset[str] = field(default_factory=frozenset)


class WithdrawalStore(Protocol):
    """A set of item IDs, of one whole with its version.

    Every method raises `HistoryStoreError` when the store cannot be read or written now.
    """

    async def version(self) -> str:
        """Of the set as it is now; quick."""
        ...

    async def read(self) -> Withdrawn:
        """The set; one that changes meanwhile may come with a version that is older than some of it, never newer."""
        ...

    async def add(self, item_ids: Sequence[str], limit: int) -> None:
        """Add items, all or none; when this returns they survive a kill of any process.

        Raises:
            RequestError: there would be more than `limit`.
        """
        ...

    async def remove(self, item_ids: Sequence[str]) -> None:
        """Remove items, all or none; those that are not there are no error."""
        ...

    async def close(self) -> None:
        """Let go of files, threads and connections; nothing may be called after this."""
        ...


def too_many(limit: int) -> RequestError:
    """What `WithdrawalStore.add` raises."""
    return RequestError("item_ids", f"at most {limit} items may be withdrawn at a time")
