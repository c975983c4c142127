import json

import pytest
from starlette.requests import Request

from service.errors import HistoryStoreError, PadrecError, RequestError
from service.gateway.problems import MEDIA_TYPE, FieldError, add_handlers, problem


class Handlers(dict):
    """Stands in for the application that handlers are added to."""

    def add_exception_handler(self, kind: type[Exception], handler: object) -> None:
        self[kind] = handler


def test_a_problem_says_what_went_wrong() -> None:
    response = problem(429, "the queue is full", headers={"Retry-After": "2"})
    assert (response.status_code, response.media_type) == (429, MEDIA_TYPE)
    assert response.headers["retry-after"] == "2"
    assert json.loads(response.body) == {
        "type": "about:blank",
        "title": "Too Many Requests",
        "status": 429,
        "detail": "the queue is full",
    }


def test_fields_at_fault_are_listed() -> None:
    body = json.loads(problem(422, "k: too large", errors=(FieldError(field="k", message="too large"),)).body)
    assert body["errors"] == [{"field": "k", "message": "too large"}]


@pytest.mark.parametrize(
    ("error", "status", "detail"),
    [
        (RequestError("k", "too large"), 422, "k: too large"),
        (HistoryStoreError("history store: down"), 503, "history store: down"),
        (PadrecError("the worker answered INTERNAL"), 500, "internal error"),
    ],
)
async def test_our_errors_have_their_status(error: PadrecError, status: int, detail: str) -> None:
    handlers = Handlers()
    add_handlers(handlers)
    response = await handlers[PadrecError](Request({"type": "http"}), error)
    assert (response.status_code, json.loads(response.body)["detail"]) == (status, detail)
