"""Errors as problem details (RFC 9457), every one of them: ours, the framework's and the unexpected."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from service.errors import (
    CancelledByCallerError,
    DeadlineExceededError,
    HistoryStoreError,
    PadrecError,
    QueueFullError,
    RequestError,
    UnavailableError,
)

MEDIA_TYPE = "application/problem+json"
CLIENT_CLOSED_REQUEST = 499

_log = structlog.get_logger(__name__)

_STATUSES: tuple[tuple[type[PadrecError], int], ...] = (
    (RequestError, 422),
    (QueueFullError, 429),
    (CancelledByCallerError, CLIENT_CLOSED_REQUEST),
    (UnavailableError, 503),
    (HistoryStoreError, 503),
    (DeadlineExceededError, 504),
)


class FieldError(BaseModel):
    """What is wrong with one field of the request."""

    model_config = ConfigDict(frozen=True)

    field: str = Field(description="Its name, with the index inside a list: `events.0.item_id`.")
    message: str


class Problem(BaseModel):
    """What went wrong (RFC 9457)."""

    model_config = ConfigDict(frozen=True)

    type: str = "about:blank"
    title: str = Field(description="The status in words.")
    status: int
    detail: str
    errors: tuple[FieldError, ...] | None = Field(None, description="Only where fields are at fault.")


def problem(
    status: int,
    detail: str,
    *,
    errors: tuple[FieldError, ...] | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response that says what went wrong."""
    content = Problem(title=_title(status), status=status, detail=detail, errors=errors)
    return Response(
        content.model_dump_json(exclude_none=True), status_code=status, media_type=MEDIA_TYPE, headers=headers
    )


def add_handlers(app: FastAPI) -> None:
    """Have every error of `app` answered by a problem detail."""
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(PadrecError, _on_padrec)
    app.add_exception_handler(Exception, _on_unexpected)


def _title(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase


def _wrong_fields(errors: tuple[FieldError, ...]) -> Response:
    return problem(422, f"{errors[0].field}: {errors[0].message}", errors=errors)


async def _on_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _wrong_fields(tuple(_field_error(one) for one in error.errors()))


def _field_error(error: Mapping[str, Any]) -> FieldError:
    place, *names = error["loc"]
    if error["type"] == "json_invalid":
        return FieldError(
            field="body", message=f"not valid JSON: {error['ctx']['error']} at character {names[0]}"
        )
    if place == "body" and not names:
        return FieldError(field="body", message="send a JSON object with Content-Type: application/json")
    return field_error_of(error["loc"], error["msg"])


def field_error_of(location: Sequence[int | str], message: str) -> FieldError:
    """What is wrong with the field at a place that begins with `body`, `path` or the like."""
    return FieldError(field=".".join(map(str, location[1:])), message=message.removeprefix("Value error, "))


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if (
        error.status_code == 400
    ):  # the framework's word on bytes that are no text, and on what is nested too deeply
        return _wrong_fields((FieldError(field="body", message="not valid JSON"),))
    return problem(error.status_code, str(error.detail), headers=error.headers)


def problem_of(error: PadrecError) -> Problem:
    """What an error is told as."""
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if isinstance(error, RequestError):
        fields = (FieldError(field=error.field, message=str(error)),)
        return Problem(title=_title(status), status=status, detail=f"{error.field}: {error}", errors=fields)
    if status == 500:
        _log.error("request failed", error=str(error))
    return Problem(
        title=_title(status), status=status, detail="internal error" if status == 500 else str(error)
    )


async def _on_padrec(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PadrecError)
    told = problem_of(error)
    headers = {}
    if told.status in (429, 503):
        headers["Retry-After"] = str(math.ceil(getattr(error, "retry_after", 1.0)))
    return problem(told.status, told.detail, errors=told.errors, headers=headers)


async def _on_unexpected(_request: Request, _error: Exception) -> Response:
    # The server logs the error with its traceback: the framework raises it again after this answer.
    return problem(500, "internal error")
