"""The client for asyncio."""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing, suppress
from typing import Any, Self, TypeVar, Unpack

import httpx
from httpx_sse import EventSource, ServerSentEvent
from tenacity import AsyncRetrying

from service.client import calls
from service.client.base import BaseClient, Update
from service.client.calls import Call
from service.client.deadline import Deadline
from service.client.errors import DeadlineError, TryLaterError
from service.client.requests import NewEvent, RecommendOptions, RecommendRequest
from service.gateway.answer import EventsAccepted, ItemAnswer, Recommendation, UserHistory
from service.gateway.batch import RecommendationBatch

T = TypeVar("T")
_Begun = tuple[Update, AsyncGenerator[Update, None]]


class AsyncClient(BaseClient[httpx.AsyncClient]):
    """Calls a service without waiting for it; the arguments are `BaseClient`'s.

    All tasks of one event loop may use one. Close it, or use it in an `async with`. A call that is cancelled is
    dropped by the service, too.

    Every call raises a `CallError`, of one of the kinds in `service/client/errors.py`.
    """

    async def recommend(self, user_id: str, **options: Unpack[RecommendOptions]) -> Recommendation:
        """The items that a user should see next, best first; `options` are the API's fields."""
        return await self._call(calls.recommend(user_id, options))

    async def recommend_stream(
        self, user_id: str, **options: Unpack[RecommendOptions]
    ) -> AsyncGenerator[Update, None]:
        """As `recommend`, each item the moment it is certain, then the whole recommendation."""
        call = calls.recommend_stream(user_id, options)
        deadline = self._deadline(call)
        begun: _Begun = await AsyncRetrying(**self._retries(deadline))(self._begin, call, deadline)
        first, updates = begun
        async with aclosing(updates):
            yield first
            async for update in updates:
                yield update

    async def recommend_batch(
        self, requests: Iterable[RecommendRequest], *, deadline_ms: int | None = None
    ) -> RecommendationBatch:
        """Lists for many users at once; of each its answer, or why there is none, which is not tried again."""
        return await self._call(calls.recommend_batch(requests, deadline_ms))

    async def record_events(
        self, events: Iterable[NewEvent], *, deadline_ms: int | None = None
    ) -> EventsAccepted:
        """Record that users met items; durable when it returns."""
        return await self._call(calls.record_events(events, deadline_ms))

    async def get_history(self, user_id: str, *, deadline_ms: int | None = None) -> UserHistory:
        """A user's stored history; empty for an unknown one."""
        return await self._call(calls.get_history(user_id, deadline_ms))

    async def delete_history(self, user_id: str, *, deadline_ms: int | None = None) -> None:
        """Forget a user."""
        await self._call(calls.delete_history(user_id, deadline_ms))

    async def get_item(self, item_id: str, *, deadline_ms: int | None = None) -> ItemAnswer:
        """An item of the catalogue."""
        return await self._call(calls.get_item(item_id, deadline_ms))

    async def ready(self, *, deadline_ms: int | None = None) -> bool:
        """Whether the service takes requests now; it is asked once."""
        call = calls.ready(deadline_ms)
        try:
            return await self._try(call, self._deadline(call))
        except (TryLaterError, DeadlineError):
            return False

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def _open_http(self, **options: Any) -> httpx.AsyncClient:
        return httpx.AsyncClient(**options)

    async def _call(self, call: Call[T]) -> T:
        deadline = self._deadline(call)
        answer: T = await AsyncRetrying(**self._retries(deadline))(self._try, call, deadline)
        return answer

    async def _try(self, call: Call[T], deadline: Deadline) -> T:
        with self._errors():
            async with asyncio.timeout(deadline.rest()):
                return self._answer(call, await self._http.send(self._request(call, deadline)))

    async def _begin(self, call: Call[Any], deadline: Deadline) -> _Begun:
        """The first update of a stream, and those after it."""
        updates = self._updates(call, deadline)
        return await anext(updates), updates

    async def _updates(self, call: Call[Any], deadline: Deadline) -> AsyncGenerator[Update, None]:
        with self._errors():
            # No timeout spans a yield: what the caller does meanwhile is not cut off.
            async with asyncio.timeout(deadline.rest()):
                response = await self._http.send(self._request(call, deadline), stream=True)
            async with aclosing(response):
                if not response.is_success:
                    async with asyncio.timeout(deadline.rest()):
                        await response.aread()
                self._check(response)
                async with aclosing(EventSource(response).aiter_sse()) as events:
                    while (event := await self._next(events, deadline)) is not None:
                        update = self._update(event)
                        if update is not None:
                            yield update
                        if isinstance(update, Recommendation):
                            # To its end, so that the connection can be used again; there is nothing left to be missed.
                            with suppress(httpx.HTTPError, TimeoutError, DeadlineError):
                                await self._next(events, deadline)
                            return
                raise self._ended_early()

    async def _next(
        self, events: AsyncGenerator[ServerSentEvent, None], deadline: Deadline
    ) -> ServerSentEvent | None:
        async with asyncio.timeout(deadline.rest()):
            return await anext(events, None)
