"""The error family. Every error that a caller or an operator can cause is one of these.

The message is one clear line, fit to be shown as it is. The gateway's translators turn each class
into its status (the table in `docs/architecture.md`); the command line prints it and exits 2.
"""


class PadrecError(Exception):
    """Base of all errors raised on purpose."""


class InputError(PadrecError):
    """Something given to a command is wrong: a file, an option, a setting."""


class DatasetError(InputError):
    """A source or a dataset cannot be read as what it claims to be."""


class BundleError(InputError):
    """A bundle is torn, tampered with, or of another layout."""


class RequestError(PadrecError):
    """A request is malformed or out of range.

    Attributes:
        field: the name of the field at fault, as the caller wrote it.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


class UnauthenticatedError(PadrecError):
    """The caller gave no API key, or one that there is not."""


class PermissionDeniedError(PadrecError):
    """The caller's API key is not for this."""


class NoSuchItemError(PadrecError):
    """The catalogue does not hold the item that was asked for."""


class NoSuchRecommendationError(PadrecError):
    """No such recommendation of this user is remembered: it never was, or it is over."""


class QueueFullError(PadrecError):
    """The queue is full; trying again later may succeed.

    Attributes:
        retry_after: seconds after which a retry makes sense.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class RateLimitError(PadrecError):
    """The caller asked more often than its API key may.

    Attributes:
        retry_after: seconds after which the same is allowed, if nothing else is asked meanwhile.
    """

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(PadrecError):
    """No worker answers, or it is draining.

    Attributes:
        retry_after: seconds after which a retry makes sense.
    """

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceededError(PadrecError):
    """The request's deadline passed before its list was written."""


class CancelledByCallerError(PadrecError):
    """The caller went away; its list is no longer wanted."""


class SwapUnderwayError(PadrecError):
    """A bundle is being swapped already."""


class HistoryStoreError(PadrecError):
    """The history store cannot be read or written now."""


def first_line(error: Exception) -> str:
    """The first line of what another library says went wrong."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
