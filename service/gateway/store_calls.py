"""Asking the history store, whose failures are counted, and whose time is traced."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from service.errors import HistoryStoreError
from service.telemetry.metrics import GatewayMetrics
from service.telemetry.tracing import span


@asynccontextmanager
async def asking_store(
    metrics: GatewayMetrics, call: str, seconds: float | None = None
) -> AsyncIterator[None]:
    """Counts a `call` of the store that fails in the block; one that takes longer than `seconds` fails.

    Raises:
        HistoryStoreError: as the store did, or it did not answer in time.
    """
    with span(f"history_store.{call}", to_other=True):
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            metrics.history_store_errors.inc()
            raise HistoryStoreError("history store: no answer in time") from error
        except HistoryStoreError:
            metrics.history_store_errors.inc()
            raise
