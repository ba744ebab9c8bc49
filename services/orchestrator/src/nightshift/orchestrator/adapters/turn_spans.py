"""Makes the spans of turns and model calls from the events that this process has committed.

The trace of a turn is computed from the build and the number of the turn. So another replica that takes over the build
in the middle of a turn continues the same trace. A span is exported only after its events are in the log.
"""

from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from nightshift.contracts.events.build import (
    BuildAccepted,
    CheckpointSaved,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    ToolCallRequested,
)
from nightshift.contracts.model import Event, PendingKind
from nightshift.eventlog.port import (
    Append,
    Appended,
    EventLog,
    NewEvent,
    PendingItem,
    RecordedEvent,
    Row,
    StalePending,
)
from nightshift.eventlog.trace_context import CURRENT
from nightshift.servicekit import tracing
from nightshift.servicekit.tracing import Attributes, Exporter

#: The most builds whose turn is remembered. The turn of any other is read from its stream when the build is loaded.
_BUILDS = 10_000
_AGENT = "nightshift"


def traced(log: EventLog) -> EventLog:
    """Return an event log that also makes the tracing spans of turns, or `log` itself when tracing is off."""
    exporter = tracing.exporter()
    return log if exporter is None else TurnSpanLog(log, exporter)


@dataclass(slots=True)
class _Turn:
    """What the span of a build's current turn needs. Times are Unix seconds.

    `began` is None until the turn's first model call.
    """

    number: int = 1
    version: int = 0  # of the newest event that was followed
    trace: str | None = None  # None: not exported
    began: float | None = None
    call: ModelCallStarted | None = None
    call_began: float = 0.0
    calls: int = 0
    tools: int = 0
    origin: str | None = None  # the trace of the request for the build


class TurnSpanLog:
    """An EventLog that passes each call on to another EventLog, and gives each event of a build its turn's trace."""

    def __init__(self, log: EventLog, exporter: Exporter) -> None:
        self._log = log
        self._exporter = exporter
        self._turns: OrderedDict[str, _Turn] = OrderedDict()

    async def append(
        self, stream_id: str, events: Sequence[NewEvent], *, expected_version: int | None = None
    ) -> Appended:
        traced = self._with_traces(stream_id, events)
        appended = await self._log.append(stream_id, traced, expected_version=expected_version)
        if appended.fresh:
            now = datetime.now(UTC).timestamp()
            for event, version in zip(traced, appended.versions, strict=True):
                trace = event.traceparent or CURRENT.get()
                self._note(stream_id, version, event.data, now, trace, ours=True)
        return appended

    async def append_all(self, appends: Sequence[Append]) -> tuple[Appended, ...]:
        return await self._log.append_all(appends)

    async def read_stream(
        self,
        stream_id: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        backwards: bool = False,
        limit: int | None = None,
    ) -> AsyncIterator[RecordedEvent]:
        events = self._log.read_stream(
            stream_id, from_version=from_version, to_version=to_version, backwards=backwards, limit=limit
        )
        async for event in events:
            if not backwards:
                at = event.recorded_at.timestamp()
                self._note(stream_id, event.version, event.data, at, event.traceparent, ours=False)
            yield event

    async def read_shards(self, cursors: Mapping[int, int], *, limit: int) -> Sequence[Row]:
        return await self._log.read_shards(cursors, limit=limit)

    async def read_open_streams(
        self, shards: Sequence[int], *, after: tuple[str, int] = ("", 0), limit: int
    ) -> Sequence[Row]:
        return await self._log.read_open_streams(shards, after=after, limit=limit)

    async def pending(
        self,
        kind: PendingKind,
        *,
        due_before: datetime | None = None,
        limit: int = 1000,
        after_key: str = "",
        after_due: datetime | None = None,
    ) -> Sequence[PendingItem]:
        return await self._log.pending(
            kind, due_before=due_before, limit=limit, after_key=after_key, after_due=after_due
        )

    async def stale_pending(self, *, grace_s: float = 600.0, limit: int = 100) -> Sequence[StalePending]:
        return await self._log.stale_pending(grace_s=grace_s, limit=limit)

    def _with_traces(self, stream_id: str, events: Sequence[NewEvent]) -> Sequence[NewEvent]:
        """Return the events, each with the trace of its turn when that turn is exported.

        An event that a request from outside caused keeps the trace of the request.
        """
        turn = self._turn(stream_id)
        number, trace = turn.number, turn.trace
        traced = []
        for event in events:
            of = getattr(event.data, "turn", number)
            if of != number:
                number, trace = of, _trace(stream_id, of)
            if trace is not None and event.traceparent is None:
                of_turn = isinstance(event.data, _OF_A_TURN) or CURRENT.get() is None
                traced.append(replace(event, traceparent=trace) if of_turn else event)
            else:
                traced.append(event)
            if isinstance(event.data, CheckpointSaved):
                number, trace = number + 1, _trace(stream_id, number + 1)
        return traced

    def _note(
        self, stream_id: str, version: int, data: Event, at: float, trace: str | None, *, ours: bool
    ) -> None:
        """Update the span of a build's turn by one event. An event that was noted before changes nothing.

        If `ours`, this process appended the event. Only then are the spans that end with the event exported.
        """
        turn = self._turn(stream_id)
        if version <= turn.version:
            return
        turn.version = version
        match data:
            case BuildAccepted():
                turn.origin = trace if tracing.valid(trace) else None
            case ModelCallStarted():
                if turn.number != data.turn:
                    turn.number, turn.trace = data.turn, _trace(stream_id, data.turn)
                turn.call, turn.call_began = data, at
                turn.began = at if turn.began is None else turn.began
                turn.calls += 1
                if ours:  # the run of the build goes on in this trace
                    CURRENT.set(turn.trace)
            case ModelCallResponded() | ModelCallFailed():
                if ours and turn.call is not None:
                    self._export_call(stream_id, turn, data, at)
                turn.call = None
            case ToolCallRequested():
                turn.tools += 1
            case CheckpointSaved():
                if ours:
                    self._export_turn(stream_id, turn, at)
                following = _trace(stream_id, data.turn + 1)
                if ours:
                    CURRENT.set(following)
                self._turns[stream_id] = _Turn(data.turn + 1, version, following, origin=turn.origin)
            case _ if data.terminal:
                if ours and turn.began is not None:
                    self._export_turn(stream_id, turn, at, ended=data.type)
                self._turns.pop(stream_id, None)
            case _:
                pass

    def _export_call(
        self, stream_id: str, turn: _Turn, ended: ModelCallResponded | ModelCallFailed, at: float
    ) -> None:
        started = turn.call
        trace = turn.trace
        if started is None or trace is None:
            return
        usage = ended.usage
        cached = usage.cache_read_input_tokens
        written = usage.cache_write_5m_input_tokens + usage.cache_write_1h_input_tokens
        attributes: dict[str, Any] = {
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": "anthropic",
            "gen_ai.request.model": started.model,
            "gen_ai.request.stream": True,
            "gen_ai.conversation.id": _build(stream_id),
            # The convention counts cached tokens as input; the provider does not.
            "gen_ai.usage.input_tokens": usage.input_tokens + cached + written,
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": cached or None,
            "gen_ai.usage.cache_write.input_tokens": written or None,
            "nightshift.cost_microusd": ended.cost_microusd,
            "nightshift.attempt": started.attempt,
            "nightshift.role": started.role or "builder",
        }
        if isinstance(ended, ModelCallResponded):
            attributes |= {
                "gen_ai.response.model": ended.model,
                "gen_ai.response.id": ended.message_id,
                "gen_ai.response.finish_reasons": [ended.stop_reason],
                "gen_ai.response.time_to_first_chunk": ended.first_token_ms / 1000,
            }
        span = self._exporter.start(
            f"chat {started.model}", kind="client", parent=trace, attributes=attributes, at=turn.call_began
        )
        if isinstance(ended, ModelCallFailed):
            span.fail(ended.kind)
        span.end(at)

    def _export_turn(self, stream_id: str, turn: _Turn, at: float, *, ended: str | None = None) -> None:
        trace = turn.trace
        if trace is None:
            return
        before = _trace(stream_id, turn.number - 1) if turn.number > 1 else None
        attributes: Attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": _AGENT,
            "gen_ai.conversation.id": _build(stream_id),
            "nightshift.turn": turn.number,
            "nightshift.model_calls": turn.calls,
            "nightshift.tool_calls": turn.tools,
            "nightshift.ended": ended,
        }
        span = self._exporter.start(
            f"invoke_agent {_AGENT}",
            kind="internal",
            parent=None,
            attributes=attributes,
            links=[link for link in (turn.origin, before) if link is not None],
            at=at if turn.began is None else turn.began,
            as_traceparent=trace,
        )
        span.end(at)

    def _turn(self, stream_id: str) -> _Turn:
        turn = self._turns.get(stream_id)
        if turn is None:
            turn = self._turns[stream_id] = _Turn(trace=_trace(stream_id, 1))
            if len(self._turns) > _BUILDS:
                self._turns.popitem(last=False)
        else:
            self._turns.move_to_end(stream_id)
        return turn


#: These belong to a turn even when a message from outside makes the orchestrator append them.
_OF_A_TURN = (ModelCallStarted, ModelCallResponded, ModelCallFailed, ToolCallRequested, CheckpointSaved)


def _build(stream_id: str) -> str:
    return stream_id.partition("-")[2]


def _trace(stream_id: str, turn: int) -> str | None:
    return tracing.derived(f"{stream_id}/{turn}")
