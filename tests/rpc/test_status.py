import grpc
import pytest

from service.errors import (
    CancelledByCallerError,
    DeadlineExceededError,
    PadrecError,
    QueueFullError,
    RequestError,
    UnavailableError,
)
from service.rpc.status import CatalogMismatchError, code_of, error_of, metadata_of


def status(code: grpc.StatusCode, details: str = "why", **trailing: str) -> grpc.aio.AioRpcError:
    metadata = grpc.aio.Metadata(*((name.replace("_", "-"), value) for name, value in trailing.items()))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), metadata, details)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("history", "why"), grpc.StatusCode.INVALID_ARGUMENT),
        (QueueFullError("why"), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (CatalogMismatchError("why"), grpc.StatusCode.FAILED_PRECONDITION),
        (UnavailableError("why"), grpc.StatusCode.UNAVAILABLE),
        (DeadlineExceededError("why"), grpc.StatusCode.DEADLINE_EXCEEDED),
        (CancelledByCallerError("why"), grpc.StatusCode.CANCELLED),
        (PadrecError("why"), grpc.StatusCode.INTERNAL),
    ],
)
def test_each_error_has_its_status(error: PadrecError, code: grpc.StatusCode) -> None:
    assert code_of(error) == code


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (grpc.StatusCode.RESOURCE_EXHAUSTED, QueueFullError),
        (grpc.StatusCode.FAILED_PRECONDITION, CatalogMismatchError),
        (grpc.StatusCode.UNAVAILABLE, UnavailableError),
        (grpc.StatusCode.CANCELLED, UnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceededError),
        (grpc.StatusCode.INVALID_ARGUMENT, PadrecError),
        (grpc.StatusCode.INTERNAL, PadrecError),
        (grpc.StatusCode.UNKNOWN, PadrecError),
    ],
)
def test_each_status_is_an_error(code: grpc.StatusCode, error: type[PadrecError]) -> None:
    found = error_of(status(code))
    assert type(found) is error
    assert "why" in str(found)


@pytest.mark.parametrize("error", [QueueFullError("full", 2.5), UnavailableError("away", 0.25)])
def test_when_to_retry_travels_along(error: QueueFullError | UnavailableError) -> None:
    trailing = {name.replace("-", "_"): value for name, value in metadata_of(error)}
    found = error_of(status(code_of(error), **trailing))
    assert isinstance(found, type(error))
    assert found.retry_after == error.retry_after


def test_a_senseless_retry_after_is_a_second() -> None:
    found = error_of(status(grpc.StatusCode.UNAVAILABLE, padrec_retry_after="soon"))
    assert isinstance(found, UnavailableError)
    assert found.retry_after == 1.0


def test_other_errors_say_nothing_of_retries() -> None:
    assert metadata_of(RequestError("history", "why")) == ()
