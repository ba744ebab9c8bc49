"""The trace to which the running code belongs. The log stores it with each event, and the relay publishes it."""

from contextvars import ContextVar

#: A W3C `traceparent`, such as `00-<32 hex: trace>-<16 hex: span>-01`. None outside a trace.
CURRENT: ContextVar[str | None] = ContextVar("nightshift_traceparent", default=None)
