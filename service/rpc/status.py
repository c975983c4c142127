"""Errors to gRPC statuses and back, for the internal protocol: the one place that translates them."""

import grpc

from service.errors import (
    CancelledByCallerError,
    DeadlineExceededError,
    PadrecError,
    QueueFullError,
    RequestError,
    UnavailableError,
)

RETRY_AFTER = "padrec-retry-after"


class CatalogMismatchError(UnavailableError):
    """The gateway's catalogue is not the worker's, so rows would mean other items."""


# The most special class first.
_CODES: tuple[tuple[type[PadrecError], grpc.StatusCode], ...] = (
    (RequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (QueueFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (CatalogMismatchError, grpc.StatusCode.FAILED_PRECONDITION),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (DeadlineExceededError, grpc.StatusCode.DEADLINE_EXCEEDED),
    (CancelledByCallerError, grpc.StatusCode.CANCELLED),
)


def code_of(error: PadrecError) -> grpc.StatusCode:
    """The status of an error; INTERNAL for one that has no status of its own."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def metadata_of(error: PadrecError) -> tuple[tuple[str, str], ...]:
    """Trailing metadata of an error: when a retry makes sense, if the error knows."""
    if isinstance(error, QueueFullError | UnavailableError):
        return ((RETRY_AFTER, f"{error.retry_after:.3f}"),)
    return ()


def error_of(status: grpc.aio.AioRpcError) -> PadrecError:
    """The error that a call's status stands for."""
    code = status.code()
    return error_from(code, status.details() or code.name, _retry_after(status))


def error_from(code: grpc.StatusCode, details: str, retry_after: float = 1.0) -> PadrecError:
    """The error that a status of a worker stands for.

    Args:
        code: not OK.
        details: why.
        retry_after: seconds after which a retry makes sense, where it does.
    """
    match code:
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return QueueFullError(details, retry_after)
        case grpc.StatusCode.FAILED_PRECONDITION:
            return CatalogMismatchError(details, retry_after)
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.CANCELLED:
            # The caller's own cancellation never arrives here: the worker cancels calls when it stops.
            return UnavailableError(f"the worker does not answer: {details}", retry_after)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError(details)
    return PadrecError(f"the worker answered {code.name}: {details}")


def _retry_after(status: grpc.aio.AioRpcError) -> float:
    values = dict(status.trailing_metadata() or ())
    try:
        return float(values.get(RETRY_AFTER, 1.0))
    except ValueError:
        return 1.0
