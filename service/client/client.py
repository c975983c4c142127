"""The client for code that waits."""

from collections.abc import Generator, Iterable
from contextlib import closing, suppress
from typing import Any, Self, TypeVar, Unpack

import httpx
from httpx_sse import EventSource
from tenacity import Retrying

from service.client import calls
from service.client.base import BaseClient, Update
from service.client.calls import Call
from service.client.deadline import Deadline, Timeouts
from service.client.errors import DeadlineError, TryLaterError
from service.client.requests import NewEvent, RecommendOptions, RecommendRequest
from service.gateway.answer import EventsAccepted, ItemAnswer, Recommendation, UserHistory
from service.gateway.batch import RecommendationBatch

T = TypeVar("T")
_Begun = tuple[Update, Generator[Update, None, None]]


class Client(BaseClient[httpx.Client]):
    """Calls a service, and waits for what it answers; the arguments are `BaseClient`'s.

    All threads may use one. Close it, or use it in a `with`.

    Every call raises a `CallError`, of one of the kinds in `service/client/errors.py`.
    """

    def recommend(self, user_id: str, **options: Unpack[RecommendOptions]) -> Recommendation:
        """The items that a user should see next, best first; `options` are the API's fields."""
        return self._call(calls.recommend(user_id, options))

    def recommend_stream(
        self, user_id: str, **options: Unpack[RecommendOptions]
    ) -> Generator[Update, None, None]:
        """As `recommend`, each item the moment it is certain, then the whole recommendation."""
        call = calls.recommend_stream(user_id, options)
        deadline = self._deadline(call)
        begun: _Begun = Retrying(**self._retries(deadline))(self._begin, call, deadline)
        first, updates = begun
        with closing(updates):
            yield first
            yield from updates

    def recommend_batch(
        self, requests: Iterable[RecommendRequest], *, deadline_ms: int | None = None
    ) -> RecommendationBatch:
        """Lists for many users at once; of each its answer, or why there is none, which is not tried again."""
        return self._call(calls.recommend_batch(requests, deadline_ms))

    def record_events(self, events: Iterable[NewEvent], *, deadline_ms: int | None = None) -> EventsAccepted:
        """Record that users met items; durable when it returns."""
        return self._call(calls.record_events(events, deadline_ms))

    def get_history(self, user_id: str, *, deadline_ms: int | None = None) -> UserHistory:
        """A user's stored history; empty for an unknown one."""
        return self._call(calls.get_history(user_id, deadline_ms))

    def delete_history(self, user_id: str, *, deadline_ms: int | None = None) -> None:
        """Forget a user."""
        self._call(calls.delete_history(user_id, deadline_ms))

    def get_item(self, item_id: str, *, deadline_ms: int | None = None) -> ItemAnswer:
        """An item of the catalogue."""
        return self._call(calls.get_item(item_id, deadline_ms))

    def ready(self, *, deadline_ms: int | None = None) -> bool:
        """Whether the service takes requests now; it is asked once."""
        call = calls.ready(deadline_ms)
        try:
            return self._try(call, self._deadline(call))
        except (TryLaterError, DeadlineError):
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open_http(self, **options: Any) -> httpx.Client:
        return httpx.Client(**options)

    def _call(self, call: Call[T]) -> T:
        deadline = self._deadline(call)
        answer: T = Retrying(**self._retries(deadline))(self._try, call, deadline)
        return answer

    def _try(self, call: Call[T], deadline: Deadline) -> T:
        with self._errors():
            return self._answer(call, self._send(call, deadline, stream=False))

    def _begin(self, call: Call[Any], deadline: Deadline) -> _Begun:
        """The first update of a stream, and those after it."""
        updates = self._updates(call, deadline)
        return next(updates), updates

    def _updates(self, call: Call[Any], deadline: Deadline) -> Generator[Update, None, None]:
        with self._errors(), closing(self._send(call, deadline, stream=True)) as response:
            if not response.is_success:
                response.read()
            self._check(response)
            events = EventSource(response).iter_sse()
            for event in events:
                update = self._update(event)
                if update is not None:
                    yield update
                if isinstance(update, Recommendation):
                    # To its end, so that the connection can be used again; there is nothing left to be missed.
                    with suppress(httpx.HTTPError, DeadlineError):
                        next(events, None)
                    return
                deadline.rest()
            raise self._ended_early()

    def _send(self, call: Call[Any], deadline: Deadline, *, stream: bool) -> httpx.Response:
        request = self._request(call, deadline)
        request.extensions["timeout"] = Timeouts(deadline)
        return self._http.send(request, stream=stream)
