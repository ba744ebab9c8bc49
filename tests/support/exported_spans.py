"""A fixture that keeps the spans of a test in memory, made by the real SDK."""

from collections.abc import Callable, Iterator, Sequence

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from nightshift.servicekit import otlp, tracing


@pytest.fixture
def exported() -> Iterator[Callable[[], Sequence[ReadableSpan]]]:
    """Installs an exporter. Returns a function that returns the finished spans."""
    memory = InMemorySpanExporter()
    exporter = otlp.make("tested", "r1", memory)
    tracing.install(exporter)

    def spans() -> Sequence[ReadableSpan]:
        exporter._provider.force_flush()
        return memory.get_finished_spans()

    yield spans
    tracing.install(None)
    exporter.close()
