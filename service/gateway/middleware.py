"""What happens to every HTTP request: it has an ID, a bounded body, and is counted, timed and traced."""

import time

import structlog
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.telemetry.logs import one_request
from service.telemetry.metrics import GatewayMetrics
from service.telemetry.requests import REQUEST_ID, received, traced
from service.telemetry.tracing import Tracing

# Asked for again and again, by machines, or for a page: a trace of them says nothing.
_UNTRACED = ("/health/", "/metrics", "/console", "/docs", "/openapi.json", "/static-offline-docs/")

_log = structlog.get_logger(__name__)


class BodyLimit:
    """Answers 413 when a body is announced, or turns out, to be longer than `max_bytes`."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its bytes."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        num_bytes = 0

        async def receive_bounded() -> Message:
            nonlocal num_bytes
            self._check(int(announced) if announced.isdigit() else 0)
            message = await receive()
            num_bytes += len(message.get("body", b""))
            self._check(num_bytes)
            return message

        await self._app(scope, receive_bounded, send)

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self._max_bytes:
            raise HTTPException(413, f"the body is longer than {self._max_bytes} bytes")


class Traced:
    """Traces each request, by the name of its route, but for those of `/health`, `/metrics` and the console."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app, self._tracing = app, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, watching its answer."""
        if scope["type"] != "http" or scope["path"].startswith(_UNTRACED):
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with traced(self._tracing, scope["method"], _headers(scope)) as span:
            try:
                await self._app(scope, receive, send_watched)
            finally:
                span.rename(_method(scope))
                span.set({"http.request.method": scope["method"], "http.response.status_code": status})
                if status >= 500:
                    span.fail(str(status))


class Measured:
    """Gives each request an ID, and observes its duration, by the name of its route and its status."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, watching its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        request_id = received(_headers(scope))
        status = 500

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with one_request() as users:
            try:
                await self._app(scope, receive, send_watched)
            finally:
                seconds = time.perf_counter() - start
                method = _method(scope)
                self._metrics.request_duration.labels("rest", method, str(status)).observe(seconds)
                _log.debug("request", method=method, status=status, seconds=round(seconds, 6), user_ids=users)


def _headers(scope: Scope) -> dict[str, str]:
    """By names in lower case."""
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _method(scope: Scope) -> str:
    """The route's name, not the path: a path may hold a user ID."""
    name: str = getattr(scope.get("route"), "name", "unknown")
    return name
