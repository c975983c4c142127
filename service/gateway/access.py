"""Who may call what: which scope each call needs, and the two places that ask, one for each protocol.

REST asks twice: `Authenticated` before anything of a request is read, since only few paths are open to everybody, and
`allowed` once the route is known. gRPC asks in `KeyInterceptor`, which knows the method from the start.
"""

from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any

import grpc
import structlog
from fastapi import Request
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as AsgiScope

from service.errors import PadrecError
from service.gateway.grpc_reading import Refusal
from service.gateway.keys import Caller, KeyRing, Scope
from service.gateway.problems import response_to
from service.telemetry.metrics import GatewayMetrics

# Every call, by the name of its REST route and of its gRPC method. A call that is missing here needs `admin`.
CALLS: tuple[tuple[str, str, Scope], ...] = (
    ("recommend", "Recommend", "read"),
    ("recommend_stream", "RecommendStream", "read"),
    ("recommend_batch", "BatchRecommend", "read"),
    ("get_item", "GetItem", "read"),
    ("get_history", "GetHistory", "read"),
    ("record_events", "RecordEvents", "events"),
    ("delete_history", "DeleteHistory", "events"),
)

METRICS_PATH = "/metrics"
_OPEN_PATHS = ("/docs", "/docs/oauth2-redirect", "/openapi.json", "/console")
_OPEN_FOLDERS = ("/health/", "/static-offline-docs/")
_CONSOLE, _CONSOLE_FILES = "/console/", (".js", ".css")
_ADMIN = "/admin"
_RECOMMENDER = "/padrec.v1.Recommender/"
_OPEN_SERVICES = ("/grpc.health.v1.", "/grpc.reflection.")

# Of the console's users, and of metrics where they are not open.
_OTHER_ROUTES: dict[str, Scope] = {"metrics": "read", "users": "read"}
_SCOPES: dict[str, Scope] = {name: scope for *names, scope in CALLS for name in names} | _OTHER_ROUTES
_NAMES = {method: name for name, method, _ in CALLS}

_caller: ContextVar[Caller | None] = ContextVar("caller", default=None)


def scope_of(call: str) -> Scope:
    """What a call, a route's or a gRPC method's name, needs."""
    return _SCOPES.get(call, "admin")


def charge_batch(num_lists: int) -> None:
    """Count the request that is answered now as so many lists; raises `RateLimitError`."""
    caller = _caller.get()
    if caller is not None:
        caller.charge_instead_of_one(num_lists)


class Authenticated:
    """ASGI middleware: of all paths but a few, requests without a key, or beyond its rate, are refused unread.

    Args:
        app: what is guarded.
        keys: who may call.
        open_metrics: whether `/metrics` is open.
    """

    def __init__(self, app: ASGIApp, keys: KeyRing, *, open_metrics: bool) -> None:
        self._app, self._keys = app, keys
        self._open_paths = (*_OPEN_PATHS, METRICS_PATH) if open_metrics else _OPEN_PATHS

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        _caller.set(None)
        if scope["type"] == "http" and not self._is_open(scope["path"]):
            try:
                _enter(self._keys, _key_in(scope["headers"]))
            except PadrecError as error:
                await response_to(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        is_file = path.startswith(_CONSOLE) and path.endswith(_CONSOLE_FILES)
        return is_file or path in self._open_paths or path.startswith(_OPEN_FOLDERS)


async def allowed(request: Request) -> None:
    """Dependency of all routes: whether the key that a request came with is for its route."""
    caller = _caller.get()
    if caller is not None:
        is_admin = request.scope["path"].startswith(_ADMIN)
        caller.check("admin" if is_admin else scope_of(request.scope["route"].name))


class KeyInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """Refuses calls without a key, with one that is not for them, or beyond its rate; health and reflection are open.

    Args:
        keys: who may call.
        refusal: how.
        metrics: what to count refusals in.
    """

    def __init__(self, keys: KeyRing, refusal: Refusal, metrics: GatewayMetrics) -> None:
        self._keys, self._refusal, self._metrics = keys, refusal, metrics

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
    ) -> Any:
        """The handler of a call, or one that refuses it."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(_OPEN_SERVICES):
            return handler
        # Of another service it is no method's name, and so in no table.
        method = handler_call_details.method.removeprefix(_RECOMMENDER)
        metadata = [
            (name.encode(), value if isinstance(value, bytes) else value.encode())
            for name, value in handler_call_details.invocation_metadata
        ]
        try:
            _enter(self._keys, _key_in(metadata)).check(scope_of(method))
        except PadrecError as error:
            return self._refusing(method, error)
        return handler

    def _refusing(self, method: str, error: PadrecError) -> Any:
        code, message, details = self._refusal(error)

        async def refuse(_message: bytes, context: Any) -> None:
            self._metrics.request_duration.labels("grpc", _NAMES.get(method, "unknown"), code.name).observe(0)
            await context.abort(code, message, details)

        # A refusal is a status without any answer, which is the same for calls that stream.
        return grpc.unary_unary_rpc_method_handler(refuse)


def _enter(keys: KeyRing, key: bytes | None) -> Caller:
    """Let a request in, and count it; whatever it logs says whose key it came with."""
    caller = keys.caller_of(key)
    structlog.contextvars.bind_contextvars(key=caller.key.name)
    caller.charge()
    _caller.set(caller)
    return caller


def _key_in(headers: Sequence[tuple[bytes, bytes]]) -> bytes | None:
    """The key that a request brings; names of headers are in lower case, in both protocols."""
    given = dict(headers)
    scheme, _, credentials = given.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return credentials.strip()
    return given.get(b"x-api-key")
