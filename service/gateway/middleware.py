"""What happens to every HTTP request: its body is bounded, its duration and status are counted."""

import time

import structlog
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.telemetry.logs import one_request
from service.telemetry.metrics import GatewayMetrics

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


class Measured:
    """Observes each request's duration, by the name of its route and its status."""

    def __init__(self, app: ASGIApp, metrics: GatewayMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, watching its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status = 500

        async def send_watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        with one_request() as users:
            try:
                await self._app(scope, receive, send_watched)
            finally:
                seconds = time.perf_counter() - start
                # The route, not the path: a path may hold a user ID.
                method = getattr(scope.get("route"), "name", "unknown")
                self._metrics.request_duration.labels("rest", method, str(status)).observe(seconds)
                _log.debug("request", method=method, status=status, seconds=round(seconds, 6), user_ids=users)
