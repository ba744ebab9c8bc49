"""The spans of a process, without the SDK that exports them. Everything here does nothing until `install` is called.

A parent is a W3C `traceparent`, because the log and the messages carry traces in this form. The module `otlp` has the
exporter.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Literal, Protocol

from nightshift.eventlog.trace_context import CURRENT

Kind = Literal["internal", "client", "producer", "consumer"]
#: Values of a span's attributes. A value of None is left out.
Attributes = Mapping[str, str | int | float | bool | Sequence[str] | None]


_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class OpenSpan(Protocol):
    """A span that has begun. `traceparent` identifies it as the parent of the work that it causes."""

    traceparent: str

    def set(self, attributes: Attributes) -> None:
        """Add attributes to the span."""

    def fail(self, error_type: str) -> None:
        """Mark the span as failed with this type of error.

        `error_type` must be one word, not an error message, because messages may quote what a person wrote.
        """

    def end(self, at: float | None = None) -> None:
        """End the span, now or at the given Unix time in seconds."""


class Exporter(Protocol):
    """Creates spans, and sends them to a collector in the background."""

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
    ) -> OpenSpan:
        """Begin a span. `at` is its beginning as a Unix time in seconds; None means now.

        If `as_traceparent` is given, the span gets the trace id and span id in that `traceparent` instead of random
        ones.
        """

    def samples(self, trace_id: str) -> bool:
        """Return whether a trace with this id (32 hex digits) is exported."""

    def close(self) -> None:
        """Send the spans that are not sent yet, within a few seconds."""


class _NoSpan:
    """Replaces a span when tracing is off."""

    traceparent = ""

    def set(self, attributes: Attributes) -> None:
        pass

    def fail(self, error_type: str) -> None:
        pass

    def end(self, at: float | None = None) -> None:
        pass


_NO_SPAN = _NoSpan()
_exporter: Exporter | None = None


def install(exporter: Exporter | None) -> None:
    """Export the spans of this process with `exporter`, or export nothing when it is None."""
    global _exporter  # noqa: PLW0603 - one per process, as the log configuration
    _exporter = exporter


def exporter() -> Exporter | None:
    """Return the exporter of this process, or None when tracing is off."""
    return _exporter


def valid(traceparent: str | None) -> bool:
    """Return whether the text has the form of a `traceparent`. A message from outside may contain any text."""
    return traceparent is not None and _FORM.fullmatch(traceparent) is not None


def sampled(traceparent: str | None) -> bool:
    """Return whether the sampled flag of this `traceparent` is set, so that spans of its trace are exported."""
    return traceparent is not None and valid(traceparent) and int(traceparent[-1], 16) & 1 == 1


def derived(name: str) -> str | None:
    """Return the `traceparent` of a trace whose ids are computed from `name` alone.

    So every process computes the same trace. The spans of a turn stay in one trace, even when another replica takes
    over the build in the middle of the turn. Returns None when tracing is off, or when this trace is not sampled.
    """
    if _exporter is None:
        return None
    digest = sha256(name.encode()).hexdigest()
    trace_id, span_id = digest[:32], digest[32:48]
    return f"00-{trace_id}-{span_id}-01" if _exporter.samples(trace_id) else None


@contextmanager
def within(traceparent: str | None) -> Iterator[None]:
    """Run the block in this trace, so that its log lines and the events that it appends carry the trace.

    For a text that is no `traceparent` the block runs without a trace.
    """
    token = CURRENT.set(traceparent if valid(traceparent) else None)
    try:
        yield
    finally:
        CURRENT.reset(token)


@contextmanager
def span(
    name: str, *, kind: Kind = "internal", parent: str | None = None, attributes: Attributes | None = None
) -> Iterator[OpenSpan]:
    """Run the block in a new span. Yields the span. Does nothing when tracing is off or the trace is not sampled.

    The span's parent is `parent` if given, otherwise the current trace. An error that leaves the block marks the span
    as failed.
    """
    active = _exporter
    if active is None:
        yield _NO_SPAN
        return
    parent = parent if valid(parent) else CURRENT.get()
    if parent is not None and not sampled(parent):
        with within(parent):
            yield _NO_SPAN
        return
    opened = active.start(name, kind=kind, parent=parent, attributes=attributes or {})
    try:
        with within(opened.traceparent):
            yield opened
    except BaseException as error:
        opened.fail(type(error).__qualname__)
        raise
    finally:
        opened.end()
