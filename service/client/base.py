"""What both clients are but for how they wait."""

import ssl
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, TypeVar

import httpx
from httpx_sse import ServerSentEvent, SSEError
from pydantic import ValidationError
from pydantic_core import to_json
from tenacity import (
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from service.client.calls import Call
from service.client.deadline import Deadline
from service.client.errors import CallError, DeadlineError, InvalidRequestError, TryLaterError, error_of
from service.errors import InputError, first_line
from service.gateway.answer import Problem, Recommendation, RecommendedItem

T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)
Update = RecommendedItem | Recommendation

LIMITS = httpx.Limits(
    max_connections=100,
    max_keepalive_connections=20,
    # Less than the gateway's own, so that no request meets a connection that is being closed.
    keepalive_expiry=4.0,
)

# Full jitter: between 0 and these, which double from try to try.
_FIRST_WAIT, _LONGEST_WAIT = 0.1, 2.0


class BaseClient(ABC, Generic[Http]):
    """Calls a service.

    Args:
        url: where the gateway is, with a path where it stands behind one.
        api_key: of a gateway that asks for one.
        deadline_ms: for each call that does not name its own, with all its tries.
        max_tries: how often a call is sent at most.
        verify: what the gateway's certificate is checked against: what this machine trusts (True), a file of
            certificates in PEM, or a context; False checks nothing.
        certificate: what is shown to a gateway that asks for one: files of the certificate and its key, in PEM.
        limits: of the pool of connections.
        transport: what requests go through, in place of the network.
        clock: seconds that only rise.
        sleep: waits so many seconds.

    Raises:
        InputError: the URL, the API key or a file is none that can be used.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        deadline_ms: int = 5_000,
        max_tries: int = 4,
        verify: bool | str | Path | ssl.SSLContext = True,
        certificate: tuple[str | Path, str | Path] | None = None,
        limits: httpx.Limits = LIMITS,
        transport: Any = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Any] | None = None,
    ) -> None:
        checked = _checked_url(url)
        # As errors say it: a name and a password are nothing for a log.
        self._url = str(checked.copy_with(userinfo=b""))
        self._deadline_ms, self._max_tries = deadline_ms, max_tries
        self._clock = clock
        self._sleep = sleep
        self._http: Http = self._open_http(
            base_url=checked,
            headers=_headers(api_key),
            verify=_checked_tls(verify, certificate),
            limits=limits,
            transport=transport,
            timeout=None,
        )

    @abstractmethod
    def _open_http(self, **options: Any) -> Http:
        """The pool of connections."""

    def _deadline(self, call: Call[Any]) -> Deadline:
        milliseconds = self._deadline_ms if call.deadline_ms is None else call.deadline_ms
        return Deadline(milliseconds / 1000, self._clock)

    def _request(self, call: Call[Any], deadline: Deadline) -> httpx.Request:
        """One try of a call."""
        try:
            if call.body is None:
                return self._http.build_request(call.method, call.url)
            content = to_json(call.body(deadline.rest_ms()))
            json = {"Content-Type": "application/json"}
            return self._http.build_request(call.method, call.url, content=content, headers=json)
        except (TypeError, ValueError) as error:
            raise InvalidRequestError(f"the request cannot be sent: {first_line(error)}") from error

    def _retries(self, deadline: Deadline) -> dict[str, Any]:
        """For tenacity: what is tried again, when, and when no more."""
        return {
            "retry": retry_if_exception_type(TryLaterError),
            "wait": _AsTold() + wait_random_exponential(multiplier=_FIRST_WAIT, max=_LONGEST_WAIT),
            "stop": stop_after_attempt(self._max_tries) | _Before(deadline),
            "reraise": True,
        } | ({} if self._sleep is None else {"sleep": self._sleep})

    def _answer(self, call: Call[T], response: httpx.Response) -> T:
        """What a response says; its body has been read."""
        self._check(response)
        with self._foreign_answers():
            return call.read(response.content)

    def _check(self, response: httpx.Response) -> None:
        """Raise what a response says went wrong; its body has been read if it is not a good one."""
        if not response.is_success:
            raise error_of(response.status_code, _problem(response.content), _retry_after(response))

    def _update(self, event: ServerSentEvent) -> Update | None:
        """What an event of a stream says; None: what only a later client knows."""
        with self._foreign_answers():
            match event.event:
                case "item":
                    return RecommendedItem.model_validate_json(event.data)
                case "done":
                    return Recommendation.model_validate_json(event.data)
                case "error":
                    problem = Problem.model_validate_json(event.data)
                    raise error_of(problem.status, problem)
        return None

    def _ended_early(self) -> TryLaterError:
        """What a stream ends in that ends without the list."""
        return TryLaterError(f"the stream from {self._url} ended early")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Whatever the network does is one of our errors."""
        try:
            yield
        except (httpx.TimeoutException, TimeoutError) as error:
            raise DeadlineError(f"no answer from {self._url} in time") from error
        except SSEError as error:
            raise self._foreign(error) from error
        except httpx.RequestError as error:
            kind = TryLaterError if _may_pass(error) else CallError
            raise kind(f"no padrec gateway answers at {self._url}: {first_line(error)}") from error

    @contextmanager
    def _foreign_answers(self) -> Iterator[None]:
        try:
            yield
        except ValidationError as error:
            raise self._foreign(error) from error

    def _foreign(self, error: Exception) -> CallError:
        return CallError(f"what answers at {self._url} is no padrec gateway: {first_line(error)}")


class _Before(stop_base):
    """Where a deadline is over before the next try."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def __call__(self, retry_state: RetryCallState) -> bool:
        return not self._deadline.allows(retry_state.upcoming_sleep)


class _AsTold(wait_base):
    """As long as the service said."""

    def __call__(self, retry_state: RetryCallState) -> float:
        error = retry_state.outcome and retry_state.outcome.exception()
        return (isinstance(error, TryLaterError) and error.retry_after) or 0.0


def _checked_url(url: str) -> httpx.URL:
    try:
        checked = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise InputError(f"'{url}' is no URL: {error}") from error
    if checked.scheme not in ("http", "https") or not checked.host:
        raise InputError(f"'{url}' is no URL of a gateway: give one like http://127.0.0.1:8000")
    return checked


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {"User-Agent": f"padrec/{version('padrec')}"}
    if api_key is not None:
        if not (api_key.isascii() and api_key.isprintable() and api_key.strip() == api_key != ""):
            raise InputError(
                "the API key is empty, or holds what no header may, like a line break at its end"
            )
        headers["Authorization"] = f"Bearer {api_key}"
    return headers


def _checked_tls(
    verify: bool | str | Path | ssl.SSLContext, certificate: tuple[str | Path, str | Path] | None
) -> bool | ssl.SSLContext:
    """As httpx takes it."""
    if certificate is None and isinstance(verify, bool | ssl.SSLContext):
        return verify
    try:
        if isinstance(verify, ssl.SSLContext):
            context = verify
        else:
            context = ssl.create_default_context(cafile=None if isinstance(verify, bool) else verify)
        if verify is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        if certificate is not None:
            # Without a password of its own it would ask for one at the terminal.
            context.load_cert_chain(*certificate, password="")
    except (OSError, ValueError) as error:
        files = ", ".join(map(str, [verify, *(certificate or ())]))
        raise InputError(f"TLS: {first_line(error)}: {files}") from error
    return context


def _problem(body: bytes) -> Problem | None:
    try:
        return Problem.model_validate_json(body)
    except ValidationError:
        return None


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds, which proxies may give as a date."""
    told = response.headers.get("Retry-After", "")
    if told.isdecimal():
        return float(told)
    try:
        return max(0.0, (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _may_pass(error: httpx.RequestError) -> bool:
    """Whether it is of the network; a certificate that is not trusted, say, stays so."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return False
        cause = cause.__cause__
    return isinstance(error, httpx.NetworkError | httpx.RemoteProtocolError)
