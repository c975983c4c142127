import json

import pytest
from starlette.requests import Request
from starlette.responses import Response

from service.errors import HistoryStoreError, NoSuchItemError, PadrecError, QueueFullError, RequestError
from service.gateway.answer import FieldError
from service.gateway.problems import MEDIA_TYPE, add_handlers, problem_with_fields


class Handlers(dict):
    """Stands in for the application that handlers are added to."""

    def add_exception_handler(self, kind: type[Exception], handler: object) -> None:
        self[kind] = handler


async def answered(error: PadrecError) -> Response:
    handlers = Handlers()
    add_handlers(handlers)
    return await handlers[PadrecError](Request({"type": "http"}), error)


async def test_a_problem_says_what_went_wrong() -> None:
    response = await answered(QueueFullError("the queue is full", 1.2))
    assert (response.status_code, response.media_type) == (429, MEDIA_TYPE)
    assert response.headers["retry-after"] == "2"
    assert json.loads(response.body) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "the queue is full",
    }


def test_fields_at_fault_are_listed() -> None:
    told = problem_with_fields(
        [FieldError(field="k", message="too large"), FieldError(field="n", message="none")]
    )
    assert (told.status, told.detail) == (422, "k: too large")
    assert [error.field for error in told.errors or ()] == ["k", "n"]


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (RequestError("k", "too large"), 422, "k: too large"),
        (NoSuchItemError("no such item: x"), 404, "no such item: x"),
        (HistoryStoreError("history store: down"), 503, "history store: down"),
        (PadrecError("the worker answered INTERNAL"), 500, "internal error"),
    ],
)
async def test_our_errors_have_their_status(error: PadrecError, status: int, detail: str) -> None:
    response = await answered(error)
    assert (response.status_code, json.loads(response.body)["detail"]) == (status, detail)
