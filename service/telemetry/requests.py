"""What comes with a request and goes along with it: its ID, and its trace.

Whatever a request logs says its `request_id`, and its `trace_id` where it is traced: REST, gRPC and the worker call
`received` when a request comes in, and send `sent_along` with what they ask of another process.
"""

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import structlog

from service.telemetry.tracing import Span, Tracing, trace_headers

REQUEST_ID = "x-request-id"
_LONGEST = 128


def received(headers: Mapping[str, str]) -> str:
    """The ID of a request that comes in: its caller's, where that is one, or a new one.

    Args:
        headers: by names in lower case. An ID is 1 to 128 printable ASCII characters.
    """
    given = headers.get(REQUEST_ID, "")
    is_valid = given.isascii() and given.isprintable() and 0 < len(given) <= _LONGEST
    request_id = given if is_valid else uuid.uuid4().hex
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(request_id=request_id)
    return request_id


def request_id() -> str | None:
    """The ID of the request that is answered now; None: of none."""
    found: str | None = structlog.contextvars.get_contextvars().get("request_id")
    return found


@contextmanager
def traced(tracing: Tracing, name: str, headers: Mapping[str, str]) -> Iterator[Span]:
    """Around a request that was `received`: its span."""
    with tracing.request(name, headers) as span:
        if span.trace_id:
            structlog.contextvars.bind_contextvars(trace_id=span.trace_id)
        if (own := request_id()) is not None:
            span.set({"padrec.request_id": own})
        yield span


def sent_along() -> tuple[tuple[str, str], ...]:
    """Metadata for a call of another process on behalf of the request that is answered now."""
    own = request_id()
    return (*(() if own is None else ((REQUEST_ID, own),)), *trace_headers().items())
