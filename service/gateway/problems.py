"""Errors as problem details (RFC 9457), every one of them: ours, the framework's and the unexpected."""

import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from service.errors import (
    CancelledByCallerError,
    DeadlineExceededError,
    HistoryStoreError,
    NoSuchItemError,
    NoSuchRecommendationError,
    PadrecError,
    PermissionDeniedError,
    QueueFullError,
    RateLimitError,
    RequestError,
    SwapUnderwayError,
    UnauthenticatedError,
    UnavailableError,
)
from service.gateway.answer import FieldError, Problem
from service.telemetry.requests import REQUEST_ID, request_id

MEDIA_TYPE = "application/problem+json"
CLIENT_CLOSED_REQUEST = 499
MAY_BE_TRIED_AGAIN = (429, 503)

_log = structlog.get_logger(__name__)

_STATUSES: tuple[tuple[type[PadrecError], int], ...] = (
    (UnauthenticatedError, 401),
    (PermissionDeniedError, 403),
    (NoSuchItemError, 404),
    (NoSuchRecommendationError, 404),
    (SwapUnderwayError, 409),
    (RequestError, 422),
    (RateLimitError, 429),
    (QueueFullError, 429),
    (CancelledByCallerError, CLIENT_CLOSED_REQUEST),
    (UnavailableError, 503),
    (HistoryStoreError, 503),
    (DeadlineExceededError, 504),
)


def problem_of(error: PadrecError) -> Problem:
    """What an error is told as."""
    if isinstance(error, RequestError):
        return problem_with_fields([FieldError(field=error.field, message=str(error))])
    status = next((status for kind, status in _STATUSES if isinstance(error, kind)), 500)
    if status == 500:
        _log.error("request failed", error=str(error))
        return internal_problem()
    return Problem(title=_title(status), status=status, detail=str(error))


def problem_of_any(error: Exception) -> Problem:
    """What an error is told as that need not be ours; one that is not is logged."""
    if isinstance(error, PadrecError):
        return problem_of(error)
    _log.error("request failed", exc_info=error)
    return internal_problem()


def internal_problem() -> Problem:
    """What callers are told of what is not theirs; the log has more."""
    return Problem(title=_title(500), status=500, detail="internal error")


def problem_with_fields(errors: Sequence[FieldError]) -> Problem:
    """What is told of fields at fault, of which there is at least one."""
    detail = f"{errors[0].field}: {errors[0].message}"
    return Problem(title=_title(422), status=422, detail=detail, errors=tuple(errors))


def seconds_to_retry(error: PadrecError) -> float:
    """After which a retry of a request that failed so makes sense; of those that may be tried again."""
    return float(getattr(error, "retry_after", 1.0))


def field_error_of(location: Sequence[int | str], message: str) -> FieldError:
    """What is wrong with the field at a place that begins with `body`, `path` or the like."""
    return FieldError(field=".".join(map(str, location[1:])), message=message.removeprefix("Value error, "))


def response_to(error: PadrecError) -> Response:
    """The whole answer to a request that failed so."""
    told, headers = problem_of(error), {}
    if told.status in MAY_BE_TRIED_AGAIN:
        headers["Retry-After"] = str(math.ceil(seconds_to_retry(error)))
    if told.status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    return _response(told, headers)


def add_handlers(app: FastAPI) -> None:
    """Have every error of `app` answered by a problem detail."""
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(PadrecError, _on_padrec)
    app.add_exception_handler(Exception, _on_unexpected)


def _title(status: int) -> str:
    return "Client Closed Request" if status == CLIENT_CLOSED_REQUEST else HTTPStatus(status).phrase


def _response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    content = problem.model_dump_json(exclude_none=True)
    return Response(content, status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


async def _on_validation(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _response(problem_with_fields([_field_error(one) for one in error.errors()]))


def _field_error(error: Mapping[str, Any]) -> FieldError:
    place, *names = error["loc"]
    if error["type"] == "json_invalid":
        return FieldError(
            field="body", message=f"not valid JSON: {error['ctx']['error']} at character {names[0]}"
        )
    if place == "body" and not names:
        return FieldError(field="body", message="send a JSON object with Content-Type: application/json")
    return field_error_of(error["loc"], error["msg"])


async def _on_http(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        # The framework's word on bytes that are no text, and on what is nested too deeply.
        return _response(problem_with_fields([FieldError(field="body", message="not valid JSON")]))
    status = error.status_code
    return _response(Problem(title=_title(status), status=status, detail=str(error.detail)), error.headers)


async def _on_padrec(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PadrecError)
    return response_to(error)


async def _on_unexpected(_request: Request, _error: Exception) -> Response:
    # The server logs the error with its traceback: the framework raises it again after this answer.
    # Nor does the answer pass what gives others their ID.
    own = request_id()
    return _response(internal_problem(), None if own is None else {REQUEST_ID: own})
