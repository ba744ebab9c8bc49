"""Exports spans over OTLP with the OpenTelemetry SDK. The standard OTEL_* variables configure the export.

Tracing is off unless OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT or OTEL_TRACES_EXPORTER is set.
The SDK is imported only when tracing is on.
"""

import os
import threading
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from nightshift.eventlog.errors import ConfigurationError
from nightshift.servicekit.tracing import Attributes, Exporter, Kind

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import Span, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

#: The release of the semantic conventions that the names of spans and attributes follow.
SCHEMA_URL = "https://opentelemetry.io/schemas/1.44.0"
#: Seconds that a stopping process waits for a collector to take its last spans.
_CLOSE_S = 2.0


def from_environment(service: str, replica: str, environ: Mapping[str, str] = os.environ) -> Exporter | None:
    """Return the exporter that the OTEL_* variables ask for, or None when tracing is off.

    Raises ConfigurationError for an exporter or a protocol that this release does not support.
    """
    kind = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    endpoints = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    wanted = bool(kind) or any(environ.get(name) for name in endpoints)
    if not wanted or kind == "none" or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if kind not in ("", "otlp", "console"):
        raise ConfigurationError(
            f"OTEL_TRACES_EXPORTER={kind} is not supported",
            hint="set it to otlp, console or none",
        )
    for name in ("OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"):
        if environ.get(name, "http/protobuf") != "http/protobuf":
            raise ConfigurationError(
                f"{name}={environ[name]} is not supported",
                hint=f"set {name}=http/protobuf and the collector's HTTP port, usually 4318",
            )
    return make(service, replica, _span_exporter(kind), environ=environ)


def make(
    service: str, replica: str, exporter: "SpanExporter", *, environ: Mapping[str, str] = os.environ
) -> "SdkExporter":
    """Return an exporter that sends spans in batches to `exporter`. OTEL_TRACES_SAMPLER selects the sampler."""
    # The SDK takes a tenth of a second to import, and most processes do not trace.
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

    named: dict[str, Any] = {
        "service.namespace": "nightshift",
        "service.version": version("nightshift-servicekit"),
        "service.instance.id": replica,
    }
    if not environ.get("OTEL_SERVICE_NAME"):
        named["service.name"] = service
    provider = TracerProvider(
        resource=Resource.create(named, SCHEMA_URL), id_generator=_ids(), shutdown_on_exit=False
    )
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return SdkExporter(provider)


def _span_exporter(kind: str) -> "SpanExporter":
    if kind == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    return OTLPSpanExporter()


#: The trace and span id of the span that is being started, when they are given.
_given: ContextVar[tuple[int, int] | None] = ContextVar("given span ids", default=None)


def _ids() -> Any:
    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator  # noqa: PLC0415

    class Ids(RandomIdGenerator):
        """Makes the ids of traces and spans: those in the context variable `_given` if set, otherwise random ones."""

        def generate_trace_id(self) -> int:
            given = _given.get()
            return super().generate_trace_id() if given is None else given[0]

        def generate_span_id(self) -> int:
            given = _given.get()
            return super().generate_span_id() if given is None else given[1]

    return Ids()


class SdkSpan:
    """A span of the OpenTelemetry SDK, with the methods of the protocol OpenSpan (see tracing.py)."""

    def __init__(self, span: "Span", traceparent: str) -> None:
        self._span = span
        self.traceparent = traceparent

    def set(self, attributes: Attributes) -> None:
        self._span.set_attributes({key: value for key, value in attributes.items() if value is not None})

    def fail(self, error_type: str) -> None:
        from opentelemetry.trace import StatusCode  # noqa: PLC0415

        self._span.set_attribute("error.type", error_type)
        self._span.set_status(StatusCode.ERROR)

    def end(self, at: float | None = None) -> None:
        self._span.end(None if at is None else _nanoseconds(at))


class SdkExporter:
    """A tracer provider of the OpenTelemetry SDK, with the methods of the protocol Exporter (see tracing.py)."""

    def __init__(self, provider: "TracerProvider") -> None:
        from opentelemetry import trace  # noqa: PLC0415
        from opentelemetry.context import Context  # noqa: PLC0415

        self._trace = trace
        self._no_context = Context()
        self._provider = provider
        self._tracer: Any = provider.get_tracer("nightshift", schema_url=SCHEMA_URL)
        self._kinds = {kind.name.lower(): kind for kind in trace.SpanKind}

    def start(
        self,
        name: str,
        *,
        kind: Kind,
        parent: str | None,
        attributes: Attributes,
        links: Sequence[str] = (),
        at: float | None = None,
        as_traceparent: str | None = None,
    ) -> SdkSpan:
        trace = self._trace
        context = self._no_context  # without the SDK's own current span
        if parent is not None:
            context = trace.set_span_in_context(trace.NonRecordingSpan(self._context(parent)), context)
        token = None
        if as_traceparent is not None:
            given = self._context(as_traceparent)
            token = _given.set((given.trace_id, given.span_id))
        try:
            span = self._tracer.start_span(
                name,
                context=context,
                kind=self._kinds[kind],
                attributes={key: value for key, value in attributes.items() if value is not None},
                links=[trace.Link(self._context(link)) for link in links],
                start_time=None if at is None else _nanoseconds(at),
            )
        finally:
            if token is not None:
                _given.reset(token)
        made = span.get_span_context()
        return SdkSpan(
            span, f"00-{made.trace_id:032x}-{made.span_id:016x}-{'01' if made.trace_flags.sampled else '00'}"
        )

    def samples(self, trace_id: str) -> bool:
        from opentelemetry.sdk.trace.sampling import Decision  # noqa: PLC0415

        found = self._provider.sampler.should_sample(None, int(trace_id, 16), "")
        return found.decision is Decision.RECORD_AND_SAMPLE

    def close(self) -> None:
        # The SDK would wait for a collector that does not answer for as long as its retries last.
        closing = threading.Thread(target=self._provider.shutdown, name="last spans", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)

    def _context(self, traceparent: str) -> Any:
        _version, trace_id, span_id, flags = traceparent.split("-")[:4]
        return self._trace.SpanContext(
            int(trace_id, 16),
            int(span_id, 16),
            is_remote=True,
            trace_flags=self._trace.TraceFlags(int(flags, 16)),
        )


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
