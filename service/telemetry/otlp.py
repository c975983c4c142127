"""Traces by OpenTelemetry, sent with OTLP over HTTP. Imported only where the settings ask for traces."""

import threading
from collections.abc import Mapping
from importlib.metadata import version
from typing import Self

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service.telemetry.tracing import Attribute, Span

# Of a process that stops: a collector that is down must not keep it.
_LAST_SECONDS = 1.0
_SEND_SECONDS = 5.0

_PROPAGATOR = TraceContextTextMapPropagator()


class OtlpTracer:
    """A `service.telemetry.tracing.Tracer`.

    Args:
        processor: takes the spans that have ended.
        sample_ratio: of requests whose caller traces nothing; where the caller does, it decides.
        process: the name of the service that spans are of.
    """

    def __init__(self, processor: SpanProcessor, sample_ratio: float, process: str) -> None:
        self._provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
            resource=Resource.create({SERVICE_NAME: process, SERVICE_VERSION: version("padrec")}),
            shutdown_on_exit=False,  # it would wait for half a minute
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("padrec")

    @classmethod
    def sending(cls, endpoint: str, sample_ratio: float, process: str) -> Self:
        """One that sends its spans, from a thread of its own, to the URL of a collector.

        While nobody answers there it drops what does not fit into its queue of a few thousand spans.
        """
        exporter = OTLPSpanExporter(endpoint=endpoint, timeout=_SEND_SECONDS)
        return cls(BatchSpanProcessor(exporter), sample_ratio, process)

    def request(self, name: str, headers: Mapping[str, str]) -> Span:
        """See `Tracer`."""
        caller = _PROPAGATOR.extract(headers, Context())
        return _OtlpSpan(
            self._tracer, self._tracer.start_span(name, context=caller, kind=trace.SpanKind.SERVER)
        )

    def close(self) -> None:
        """See `Tracer`."""
        last = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        last.start()
        last.join(_LAST_SECONDS)


class _OtlpSpan:
    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer, self._span = tracer, span
        self._context = trace.set_span_in_context(span, Context())

    @property
    def trace_id(self) -> str:
        return trace.format_trace_id(self._span.get_span_context().trace_id)

    def child(
        self,
        name: str,
        attributes: Mapping[str, Attribute],
        *,
        to_other: bool = False,
        began: int | None = None,
    ) -> Span:
        if not self._span.is_recording():  # nor would its parts be: it stands for them
            return self
        kind = trace.SpanKind.CLIENT if to_other else trace.SpanKind.INTERNAL
        started = self._tracer.start_span(
            name, context=self._context, kind=kind, attributes=dict(attributes), start_time=began
        )
        return _OtlpSpan(self._tracer, started)

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def set(self, attributes: Mapping[str, Attribute]) -> None:
        self._span.set_attributes(dict(attributes))

    def fail(self, kind: str) -> None:
        # Its name alone: an error's text may hold what a caller sent.
        self._span.set_attribute("error.type", kind)
        self._span.set_status(trace.StatusCode.ERROR)

    def end(self, at: int | None = None) -> None:
        self._span.end(at)

    def headers(self) -> Mapping[str, str]:
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, self._context)
        return carrier
