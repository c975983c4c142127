"""The calls: what is sent, and how what comes back is read. Nothing here sends."""

import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from service.client.requests import NewEvent, RecommendOptions, RecommendRequest
from service.gateway.answer import EventsAccepted, ItemAnswer, Recommendation, UserHistory
from service.gateway.batch import RecommendationBatch

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """A call.

    Attributes:
        method: of HTTP.
        path: its parts, as they are.
        read: makes the answer of the body of a good response.
        body: what is sent as JSON, by the milliseconds that are left; None: nothing.
        deadline_ms: for the whole call; None: the client's.
    """

    method: str
    path: tuple[str, ...]
    read: Callable[[bytes], T]
    body: Callable[[int], Mapping[str, Any]] | None = None
    deadline_ms: int | None = None

    @property
    def url(self) -> str:
        """The path, encoded: dots too, for '..' is a way up."""
        return "/".join(quote(part, safe="").replace(".", "%2E") for part in self.path)


def recommend(user_id: str, options: RecommendOptions) -> Call[Recommendation]:
    """`POST /recommend`."""
    return Call(
        "POST",
        ("recommend",),
        Recommendation.model_validate_json,
        lambda rest_ms: {"user_id": user_id, **options, "deadline_ms": rest_ms},
        options.get("deadline_ms"),
    )


def recommend_stream(user_id: str, options: RecommendOptions) -> Call[Recommendation]:
    """`POST /recommend/stream`, whose last event is its answer."""
    return replace(recommend(user_id, options), path=("recommend", "stream"))


def recommend_batch(
    requests: Iterable[RecommendRequest], deadline_ms: int | None
) -> Call[RecommendationBatch]:
    """`POST /recommend/batch`."""
    asked = list(requests)

    def body(rest_ms: int) -> Mapping[str, Any]:
        return {
            "requests": [
                {**request, "deadline_ms": _lower(request.get("deadline_ms"), rest_ms)} for request in asked
            ]
        }

    return Call("POST", ("recommend", "batch"), RecommendationBatch.model_validate_json, body, deadline_ms)


def record_events(events: Iterable[NewEvent], deadline_ms: int | None) -> Call[EventsAccepted]:
    """`POST /events`; events without an ID get one, so that they count once however often they are sent."""
    told = [event if event.get("event_id") is not None else event | _new_id() for event in events]
    return Call(
        "POST",
        ("events",),
        EventsAccepted.model_validate_json,
        lambda _rest_ms: {"events": told},
        deadline_ms,
    )


def get_history(user_id: str, deadline_ms: int | None) -> Call[UserHistory]:
    """`GET /users/{id}/history`."""
    return Call(
        "GET", ("users", user_id, "history"), UserHistory.model_validate_json, deadline_ms=deadline_ms
    )


def delete_history(user_id: str, deadline_ms: int | None) -> Call[None]:
    """`DELETE /users/{id}/history`."""
    return Call("DELETE", ("users", user_id, "history"), lambda _body: None, deadline_ms=deadline_ms)


def get_item(item_id: str, deadline_ms: int | None) -> Call[ItemAnswer]:
    """`GET /items/{id}`."""
    return Call("GET", ("items", item_id), ItemAnswer.model_validate_json, deadline_ms=deadline_ms)


def ready(deadline_ms: int | None) -> Call[bool]:
    """`GET /health/ready`."""
    return Call("GET", ("health", "ready"), lambda _body: True, deadline_ms=deadline_ms)


def _lower(asked_ms: int | None, rest_ms: int) -> int:
    return rest_ms if asked_ms is None else min(asked_ms, rest_ms)


def _new_id() -> dict[str, str]:
    return {"event_id": uuid.uuid4().hex}
