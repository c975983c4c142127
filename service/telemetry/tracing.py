"""Traces: what a request spent its time on, as a tree of spans over all processes that it went through.

A request begins with `Tracing.request`, which takes up its caller's trace; what it does on the way stands in `span`,
and what is known only afterwards, by its times, goes to `past`. Where nothing is traced all of these do nothing, and
OpenTelemetry is not imported: what knows it is `service.telemetry.otlp` alone. Attributes never name users.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from service.config import TracingSettings
from service.errors import InputError

Attribute = str | int | float | bool


class Span(Protocol):
    """A part of a request, from its making to its end.

    Attributes:
        trace_id: of its request, 32 hexadecimal digits; empty where nothing is traced.
    """

    @property
    def trace_id(self) -> str: ...

    def child(
        self,
        name: str,
        attributes: Mapping[str, Attribute],
        *,
        to_other: bool = False,
        began: int | None = None,
    ) -> "Span":
        """A part of it that begins now, or began at `began`, in nanoseconds since the epoch.

        Args:
            name: what is done.
            attributes: what there is to say of it.
            to_other: another process is asked to do it.
            began: when.
        """
        ...

    def rename(self, name: str) -> None:
        """Call it otherwise."""
        ...

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        """Say more of it."""
        ...

    def fail(self, kind: str) -> None:
        """It went wrong: with an error of this name, or a status."""
        ...

    def end(self, at: int | None = None) -> None:
        """It ends now, or ended at `at`, in nanoseconds since the epoch; once."""
        ...

    def headers(self) -> Mapping[str, str]:
        """What tells another process that its work belongs here (W3C Trace Context)."""
        ...


class Tracer(Protocol):
    """Begins requests' spans."""

    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        """The span of a request that begins now; `headers`, by names in lower case, may name its caller's trace."""
        ...

    def close(self) -> None:
        """Send what is not sent yet, for a moment, and no more after it."""
        ...


class _Nothing:
    """The span of what is not traced."""

    trace_id = ""

    def child(
        self,
        name: str,
        attributes: Mapping[str, Attribute],
        *,
        to_other: bool = False,
        began: int | None = None,
    ) -> Span:
        return self

    def rename(self, name: str) -> None: ...

    def set(self, attributes: Mapping[str, Attribute]) -> None: ...

    def fail(self, kind: str) -> None: ...

    def end(self, at: int | None = None) -> None: ...

    def headers(self) -> Mapping[str, str]:
        return {}


_NOTHING: Span = _Nothing()
_current: ContextVar[Span] = ContextVar("span", default=_NOTHING)


class Tracing:
    """Traces of this process.

    Args:
        tracer: where spans go; None: nothing is traced.
    """

    def __init__(self, tracer: Tracer | None = None) -> None:
        self._tracer = tracer

    @contextmanager
    def request(self, name: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """Around a request, which says itself whether it failed; `headers` by names in lower case."""
        request = _NOTHING if self._tracer is None else self._tracer.request(name, headers)
        with _entered(request, _NOTHING):
            yield request

    def close(self) -> None:
        """Send what is not sent yet, for no longer than a moment."""
        if self._tracer is not None:
            self._tracer.close()


def open_tracing(settings: TracingSettings, process: str) -> Tracing:
    """What the settings ask for, of a process of this name.

    Raises:
        InputError: they ask for traces, and the extra `tracing` is not installed.
    """
    if settings.endpoint is None:
        return Tracing()
    try:
        from service.telemetry.otlp import OtlpTracer
    except ImportError as error:
        raise InputError(
            f"setting 'tracing.endpoint': install padrec with its extra 'tracing' first ({error.name} is missing)"
        ) from error
    return Tracing(OtlpTracer.sending(settings.endpoint, settings.sample_ratio, process))


@contextmanager
def span(
    name: str, attributes: Mapping[str, Attribute] | None = None, *, to_other: bool = False
) -> Iterator[Span]:
    """Around a part of the request; other parts in the block are parts of it, and an error that leaves it fails it.

    `to_other` is as of `Span.child`.
    """
    parent = _current.get()
    with _entered(parent.child(name, attributes or {}, to_other=to_other), parent) as part:
        try:
            yield part
        except BaseException as error:
            part.fail(type(error).__name__)
            raise


def past(name: str, began: int, ended: int, attributes: Mapping[str, Attribute] | None = None) -> None:
    """A part of the request that is over; times in nanoseconds since the epoch."""
    _current.get().child(name, attributes or {}, began=began).end(ended)


def say(attributes: Mapping[str, Attribute]) -> None:
    """Say this of the part of the request that is under way."""
    _current.get().set(attributes)


def trace_headers() -> Mapping[str, str]:
    """What goes along with a call of another process."""
    return _current.get().headers()


@contextmanager
def _entered(inner: Span, outer: Span) -> Iterator[Span]:
    # Set and not reset: a stream is a generator, each part of which may run in another task.
    _current.set(inner)
    try:
        yield inner
    finally:
        inner.end()
        _current.set(outer)
