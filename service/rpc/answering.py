"""Who answers a worker's calls: nobody while it starts and drains, and in between a handler of one catalogue."""

from collections.abc import AsyncGenerator
from typing import Protocol

import structlog

from service.errors import PadrecError, UnavailableError
from service.rpc.messages import WorkerDescription
from service.rpc.status import CatalogMismatchError
from service.types import DecodedItem, DecodedList, DecodeRequest


class Handler(Protocol):
    """What answers the calls."""

    async def decode(self, request: DecodeRequest, deadline: float | None) -> DecodedList:
        """Write a list; `deadline` by `time.monotonic`. Cancelled when the caller went away."""
        ...

    def decode_stream(
        self, request: DecodeRequest, deadline: float | None
    ) -> AsyncGenerator[tuple[DecodedItem, ...] | DecodedList, None]:
        """As `decode`, and before the list its items as they are accepted."""
        ...

    def describe(self) -> WorkerDescription:
        """What is served now."""
        ...


class Answering:
    """Has a handler from `begin` to `end`."""

    def __init__(self) -> None:
        self._handler: Handler | None = None
        self._refusal = "the worker is starting"

    def begin(self, handler: Handler) -> None:
        """Calls are answered by this handler from now on."""
        self._handler = handler

    def end(self) -> None:
        """Calls are refused from now on."""
        self._handler, self._refusal = None, "the worker is draining"

    def handler(self) -> Handler:
        """Who answers; raises `UnavailableError` where nobody does."""
        if self._handler is None:
            raise UnavailableError(self._refusal)
        return self._handler

    def handler_of(self, catalog_version: str) -> tuple[Handler, WorkerDescription]:
        """Who answers requests in rows of this catalogue, and what is served.

        Raises:
            UnavailableError: nobody does.
            CatalogMismatchError: another catalogue is served.
        """
        handler = self.handler()
        serves = handler.describe()
        if catalog_version != serves.catalog_version:
            raise CatalogMismatchError(
                f"the request speaks catalogue '{catalog_version}', the worker serves '{serves.catalog_version}'"
            )
        return handler, serves


def as_told(error: Exception) -> PadrecError:
    """An error as callers are told of it; what was not raised on purpose is logged, and they learn nothing of it."""
    if isinstance(error, PadrecError):
        return error
    structlog.get_logger(__name__).exception("call failed", exc_info=error)
    return PadrecError("internal error of the worker")
