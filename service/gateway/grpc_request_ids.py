"""Calls have an ID: their caller's, or a new one. It is told at their end, whichever it is."""

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import grpc

from service.telemetry.requests import REQUEST_ID, received, request_id


class RequestIdInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Has whatever a call logs say its ID; the first interceptor, so that refusals do as well."""

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """The handler of a call."""
        received(headers_of(handler_call_details.invocation_metadata))
        return await continuation(handler_call_details)


def headers_of(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """What a call brings, but for what is binary."""
    return {name: value for name, value in metadata if isinstance(value, str)}


def id_metadata() -> tuple[tuple[str, str], ...]:
    """The trailing metadata that tells the ID of the call that is answered now."""
    own = request_id()
    return () if own is None else ((REQUEST_ID, own),)
