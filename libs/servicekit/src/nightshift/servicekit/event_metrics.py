"""Counts events in metrics only after this process has committed them.

So the metrics agree with the log, and a repeated append counts once.
"""

from collections import OrderedDict
from collections.abc import Sequence

from nightshift.contracts.events.budget import BudgetDenied, WakeRequested
from nightshift.contracts.events.build import (
    BuildCancelled,
    BuildFailed,
    BuildReady,
    CheckpointSaved,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    Usage,
)
from nightshift.contracts.events.snapshot import SnapshotFailed
from nightshift.contracts.model import Event
from nightshift.eventlog.port import NewEvent
from nightshift.servicekit import metrics

#: The most open model calls whose model is remembered.
_OPEN_CALLS = 10_000
_ENDS: dict[type[Event], str] = {BuildReady: "ready", BuildFailed: "failed", BuildCancelled: "cancelled"}


class EventMetrics:
    """Updates metrics when PostgresEventLog reports committed events. Types of events without a metric are ignored."""

    def __init__(self) -> None:
        # A failed call does not name its model. Streams whose calls began in another process have none here.
        self._model_of: OrderedDict[str, str] = OrderedDict()

    def __call__(self, stream_id: str, events: Sequence[NewEvent]) -> None:
        """Update the metrics for the events of one committed append."""
        for event in events:
            if type(event.data) in _METERED:
                self._count(stream_id, event.data)

    def _count(self, stream_id: str, data: Event) -> None:
        match data:
            case CheckpointSaved():
                metrics.TURNS.inc()
            case ModelCallStarted():
                self._model_of[stream_id] = data.model
                if len(self._model_of) > _OPEN_CALLS:
                    self._model_of.popitem(last=False)
            case ModelCallResponded():
                self._model_of.pop(stream_id, None)
                _spent(data.model, "responded", data.usage, data.cost_microusd)
            case ModelCallFailed():
                model = self._model_of.pop(stream_id, "unknown")
                _spent(model, data.kind, data.usage, data.cost_microusd)
            case BudgetDenied():
                metrics.DENIALS.inc()
            case WakeRequested():
                metrics.WAKES.labels(data.reason).inc()
            case SnapshotFailed():
                if data.final:
                    metrics.SNAPSHOTS_FAILED.labels(data.reason).inc()
            case _:
                metrics.BUILDS_ENDED.labels(_ENDS[type(data)]).inc()


_METERED = frozenset(
    {
        CheckpointSaved,
        ModelCallStarted,
        ModelCallResponded,
        ModelCallFailed,
        BudgetDenied,
        WakeRequested,
        SnapshotFailed,
        *_ENDS,
    }
)


def _spent(model: str, outcome: str, usage: Usage, microusd: int) -> None:
    metrics.MODEL_CALLS.labels(model, outcome).inc()
    metrics.SPEND.labels(model).inc(microusd / 1e6)
    for kind, tokens in (
        ("input", usage.input_tokens),
        ("output", usage.output_tokens),
        ("cache_read", usage.cache_read_input_tokens),
        ("cache_write", usage.cache_write_5m_input_tokens + usage.cache_write_1h_input_tokens),
    ):
        if tokens:
            metrics.MODEL_TOKENS.labels(kind, model).inc(tokens)
