"""Which items this gateway does not list for now."""

import asyncio
from collections.abc import Sequence

import structlog

from service.errors import HistoryStoreError
from service.history.withdrawals import WithdrawalStore, Withdrawn
from service.telemetry.metrics import GatewayMetrics

_log = structlog.get_logger(__name__)

# What another gateway changed is known here in less than a second.
_POLL_SECONDS = 0.5


class Withdrawals:
    """The withdrawn items, as the store said last; while it is down, that holds.

    Args:
        store: shared with other gateways.
        limit: most items that may be withdrawn.
        metrics: what to count in.

    Attributes:
        now: what is withdrawn.
        is_known: whether the store ever said.
    """

    def __init__(self, store: WithdrawalStore, limit: int, metrics: GatewayMetrics) -> None:
        self.now = Withdrawn()
        self.is_known = False
        self._store, self._limit, self._metrics = store, limit, metrics
        self._watching: asyncio.Task[None] | None = None
        self._reading = asyncio.Lock()
        self._is_failing = False

    async def start(self) -> None:
        """Read what is withdrawn, and keep up with it from then on; a store that is down is asked again."""
        await self._try_read()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Keep up no longer, and close the store."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._store.close()

    async def withdraw(self, item_ids: Sequence[str]) -> None:
        """Never list these items from now on.

        Raises:
            RequestError: too many items would be withdrawn.
            HistoryStoreError: the store is down; whether it was done is not known.
        """
        await self._store.add(item_ids, self._limit)
        await self._read()

    async def restore(self, item_ids: Sequence[str]) -> None:
        """List these items again; raises `HistoryStoreError`."""
        await self._store.remove(item_ids)
        await self._read()

    async def _read(self) -> None:
        # One after another: of two that read at a time the one that ends last may have read first.
        async with self._reading:
            if self.is_known and await self._store.version() == self.now.version:
                return
            before, self.now = self.now, await self._store.read()
            self.is_known = True
            if self.now.item_ids != before.item_ids:
                self._metrics.withdrawn_items.set(len(self.now.item_ids))
                _log.info("withdrawn items changed", num_items=len(self.now.item_ids))

    async def _try_read(self) -> None:
        try:
            await self._read()
        except HistoryStoreError as error:
            if not self._is_failing:
                _log.warning("withdrawn items cannot be read; what was known holds", error=str(error))
            self._is_failing = True
        else:
            self._is_failing = False

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            try:
                await self._try_read()
            except Exception as error:
                _log.exception("withdrawn items cannot be read", exc_info=error)
