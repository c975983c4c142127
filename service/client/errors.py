"""What a call may end in, by what its caller can do about it."""

from http import HTTPStatus

from service.errors import PadrecError
from service.gateway.answer import FieldError, Problem


class CallError(PadrecError):
    """A call failed; of the kinds below where it is one of them.

    Attributes:
        problem: what the service said of it; None: the service said nothing.
    """

    def __init__(self, message: str, problem: Problem | None = None) -> None:
        super().__init__(message)
        self.problem = problem


class InvalidRequestError(CallError):
    """The request is wrong, and will be when it is sent again."""

    @property
    def fields(self) -> tuple[FieldError, ...]:
        """What is wrong with which field; empty where it is not one field's fault."""
        return (self.problem and self.problem.errors) or ()


class NotFoundError(CallError):
    """There is no such item, no such recommendation of this user, or no such call."""


class NotAllowedError(CallError):
    """The service wants an API key, or another one."""


class TryLaterError(CallError):
    """The service cannot be reached, takes no requests now, or too many.

    Attributes:
        retry_after: seconds after which it wants to be asked again; None: it did not say.
    """

    retry_after: float | None = None


class DeadlineError(CallError):
    """There was no answer in time."""


_BY_STATUS: dict[int, type[CallError]] = {
    401: NotAllowedError,
    403: NotAllowedError,
    404: NotFoundError,
    429: TryLaterError,
    503: TryLaterError,
    504: DeadlineError,
}


def error_of(status: int, problem: Problem | None, retry_after: float | None = None) -> CallError:
    """What an answer of this status is raised as.

    Args:
        status: of HTTP.
        problem: what the answer says; None: it is not the service's.
        retry_after: seconds, as the answer says.
    """
    kind = _BY_STATUS.get(status, InvalidRequestError if 400 <= status < 500 else CallError)
    error = kind(f"{status} {problem.detail if problem else _phrase(status)}", problem)
    if isinstance(error, TryLaterError):
        error.retry_after = retry_after
    return error


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "is no status that is known"
