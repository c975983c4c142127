"""A list as server-sent events (WHATWG HTML, 9.2): `item`, again and again, then `done`, or `error`."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from fastapi.sse import format_sse_event

from service.gateway.answer import Recommendation, RecommendedItem
from service.gateway.problems import problem_of_any

Update = RecommendedItem | Recommendation

EVENT_STREAM = "text/event-stream"
# Proxies pass events on at once.
NOT_KEPT = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


async def first_of(updates: AsyncGenerator[Update, None]) -> Update:
    """The first update, after which there are others or not."""
    return await anext(updates)


async def events(first: Update, updates: AsyncGenerator[Update, None]) -> AsyncIterator[bytes]:
    """The first update and those after it; an error that comes between them is the last event."""
    async with aclosing(updates):
        yield _event(first)
        try:
            async for update in updates:
                yield _event(update)
        except Exception as error:
            yield _named("error", problem_of_any(error).model_dump_json(exclude_none=True))


def described_events() -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that answers so."""
    description = (
        "`item` events, each with an item of the list (as in `items` of `/recommend`), the moment it is certain; "
        "then one `done` event with the whole answer (as of `/recommend`), or an `error` event with a problem detail."
    )
    return {200: {"description": description, "content": {EVENT_STREAM: {}}}}


def _event(update: Update) -> bytes:
    return _named("done" if isinstance(update, Recommendation) else "item", update.model_dump_json())


def _named(event: str, data: str) -> bytes:
    return format_sse_event(event=event, data_str=data)
