"""Finds the command behind a recorded decision: a fact that came from outside, or the step that the loop took.

The log contains only the events of a decision. The step of the loop follows from the state. For a request, an answer of
the model or a failure, the events contain everything that the command needs, because `decide` copies it into them.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

from nightshift.contracts.events.build import (
    AgentSteered,
    ApprovalResolved,
    BuildAccepted,
    BuildCancelled,
    BuildFailed,
    BuildForked,
    BuildLimitsChanged,
    BuildPhaseChanged,
    BuildReady,
    BuildResumed,
    BuildRewound,
    BuildStalled,
    BuildWaiting,
    BuildWoken,
    EscalationResolved,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    Phase,
    ProviderBlocked,
    ProviderRecovered,
    ToolCallAnswered,
    Usage,
)
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import BlobRef, Event
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain import context
from nightshift.orchestrator.domain.commands import (
    AbandonCall,
    AcceptBuild,
    Answer,
    AnswerQuestion,
    CallFailed,
    CancelBuild,
    Command,
    Complete,
    Fail,
    ForkBase,
    GiveApproval,
    GiveResult,
    MessageAgent,
    PauseBuild,
    ReportProvider,
    ReportStall,
    ResumeBuild,
    ResumeFromProvider,
    RewindBuild,
    SetLimits,
    StopCall,
    StopOnFault,
    WaitForProvider,
)
from nightshift.orchestrator.domain.customer_tools import open_call
from nightshift.orchestrator.domain.next_step import CountPrompt, next_step
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import BuildState

#: Reads the command from the events that begin with a decision. Returns None for a step of the loop itself.
Reader = Callable[[BuildState, Sequence[RecordedEvent]], Command | None]


def recorded_command(
    state: BuildState, events: Sequence[RecordedEvent], now: datetime, policy: Policy
) -> Command | None:
    """Return the command that led to the first of `events`, or None when the loop would only wait in this state."""
    reader = _READERS.get(type(events[0].data))
    command = None if reader is None else reader(state, events)
    if command is not None:
        return command
    if state.accepted is None:
        return None
    counted = next(
        (one.data.counted_tokens for one in events if isinstance(one.data, ModelCallStarted)), None
    )
    step = next_step(state, now, policy, counted)
    if isinstance(step, CountPrompt):
        # The log contains no count of this request, so its bound decided.
        step = next_step(state, now, policy, context.size(state, policy))
    if isinstance(step, Complete):
        number = (one.data.build_version for one in events[:2] if isinstance(one.data, BuildReady))
        return Complete(next(number, 1))
    return step if isinstance(step, Command) else None


def _accepted(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    fact = events[0].data
    given = {name: getattr(fact, name) for name in BuildRequested.model_fields if hasattr(fact, name)}
    forked = next((one.data for one in events if isinstance(one.data, BuildForked)), None)
    if forked is None or not isinstance(fact, BuildAccepted):
        return AcceptBuild(BuildRequested.model_construct(**given))
    # What was left out for another model is missing from the event. So the base is treated as if it had the fork's
    # model.
    base = ForkBase(
        accepted=fact.model_copy(update={"build_id": forked.base_build_id}),
        at_version=forked.at_version,
        at_turn=forked.at_turn,
        conversation=forked.conversation if isinstance(forked.conversation, dict) else {},
        tool_calls=forked.tool_calls,
        wrote=forked.wrote,
        snapshot_key=forked.snapshot_key,
        tree_digest=forked.tree_digest,
    )
    return AcceptBuild(BuildRequested.model_construct(**given), base=base)


def _responded(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    fact = events[0].data
    if not isinstance(fact, ModelCallResponded) or isinstance(fact.content, BlobRef):
        return None
    details = None if isinstance(fact.stop_details, BlobRef) else fact.stop_details
    return Answer(
        message_id=fact.message_id,
        model=fact.model,
        content=fact.content,
        stop_reason=fact.stop_reason,
        usage=fact.usage,
        latency_ms=fact.latency_ms,
        first_token_ms=fact.first_token_ms,
        stop_details=details,
    )


def _failed(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    """Return the command that ended a model call. When the call was stopped, the events after it show why."""
    fact = events[0].data
    if not isinstance(fact, ModelCallFailed):
        return None
    unbilled = fact.usage == Usage() and fact.cost_microusd > 0
    seen = None if unbilled else fact.usage
    if fact.kind == "abandoned":
        return AbandonCall(seen)
    if fact.kind == "cancelled":
        return _stopped(state, events, seen)
    wait = None if fact.retry_at is None else (fact.retry_at - events[0].recorded_at).total_seconds()
    # How long the provider wanted the build to wait is not recorded, but the wait that followed is.
    return CallFailed(
        fact.kind,
        _text(fact.detail),
        status=fact.status,
        retry_after_s=wait,
        usage=seen,
        maybe_billed=unbilled,
    )


def _stopped(state: BuildState, events: Sequence[RecordedEvent], seen: Usage | None) -> Command | None:
    for event in events[1:]:
        match event.data:
            case BuildCancelled() as fact:
                return CancelBuild(_text(fact.reason), cause=event.causation_id, seen=seen)
            case BuildFailed() as fact:
                return Fail(fact.reason, _text(fact.detail), seen=seen)  # type: ignore[arg-type]  # never invalid_request
            case BuildStalled() as fact:
                return StopOnFault(_text(fact.detail), seen)
            case BuildWaiting():
                return StopCall(seen)
            case BuildPhaseChanged() | ToolCallAnswered() | EscalationResolved() | ApprovalResolved():
                continue
            case _:
                return None
    return None


def _steered(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    fact = events[0].data
    if not isinstance(fact, AgentSteered) or fact.reason != "person":
        return None
    return MessageAgent(_text(fact.message), cause=events[0].causation_id)


def _answered(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    """Return the command that these recorded events came from, when the first one closes a question or a wait.

    It is the answer of a person, or the command that ended the build and so closed what was open.
    """
    fact, cause = events[0].data, events[0].causation_id
    if isinstance(fact, ToolCallAnswered):
        if fact.by == "cancelled":
            return _ended(state, events)
        text = _text(fact.output)
        if open_call(state, fact.call_id) is not None:
            late = fact.by == "default"
            return GiveResult(fact.call_id, fact.is_error, text, cause=None if late else cause)
        if fact.option is not None:
            text = text.removeprefix(fact.option).removeprefix("\n")
        by_default = fact.by == "default"
        return AnswerQuestion(fact.call_id, fact.option, text or None, cause=None if by_default else cause)
    if isinstance(fact, EscalationResolved):
        ends = (BuildCancelled, BuildRewound)
        same = [one for one in events if one.causation_id == cause]
        ending = next((one.data for one in same if isinstance(one.data, ends)), None)
        if ending is not None and fact.comment is None:
            return _ended(state, events)
        comment = None if fact.comment is None else _text(fact.comment)
        by_default = cause == state.cause
        return AnswerQuestion(
            str(fact.escalation_id), fact.option, comment, cause=None if by_default else cause
        )
    return None


def _decided(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    fact, cause = events[0].data, events[0].causation_id
    if not isinstance(fact, ApprovalResolved):
        return None
    if fact.by == "cancelled":
        return _ended(state, events)
    comment = None if fact.comment is None else _text(fact.comment)
    by_person = cause if fact.by == "person" else None
    return GiveApproval(fact.call_id, fact.approved, comment, cause=by_person, given_by=fact.given_by)


def _ended(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    for event in events:
        if isinstance(event.data, BuildRewound):
            return _rewound(state, events)
        if isinstance(event.data, BuildCancelled):
            return CancelBuild(_text(event.data.reason), cause=event.causation_id)
        if isinstance(event.data, BuildFailed):
            return Fail(event.data.reason, _text(event.data.detail))  # type: ignore[arg-type]  # as above
    return None


def _phase_changed(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    fact = events[0].data
    if isinstance(fact, BuildPhaseChanged) and fact.to_phase is Phase.CANCELLED:
        return _ended(state, events[1:2])
    return None


def _rewound(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    """Return the command of a rewind, or None when `events` contain no rewind.

    Events that close open questions may come before `build.rewound`.
    """
    place = next((index for index, one in enumerate(events) if isinstance(one.data, BuildRewound)), None)
    if place is None or not isinstance(fact := events[place].data, BuildRewound):
        return None
    after = events[place + 1].data if len(events) > place + 1 else None
    said = after.message if isinstance(after, AgentSteered) and after.reason == "person" else None
    base = ForkBase(
        accepted=state.request,
        at_version=fact.to_version,
        at_turn=fact.to_turn,
        conversation=fact.conversation if isinstance(fact.conversation, dict) else {},
        snapshot_key=fact.snapshot_key,
        tree_digest=fact.tree_digest,
    )
    return RewindBuild(base, None if said is None else _text(said), cause=events[place].causation_id)


def _limits(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    fact = events[0].data
    if not isinstance(fact, BuildLimitsChanged):
        return None
    return SetLimits(
        fact.turn_limit,
        fact.tool_call_limit,
        cause=events[0].causation_id,
        cost_limit_microusd=fact.cost_limit_microusd,
    )


def _resumed(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    fact = events[0].data
    if isinstance(fact, BuildResumed) and fact.reason == "provider":
        return ResumeFromProvider()
    by_person = isinstance(fact, BuildResumed) and fact.reason == "person"
    return ResumeBuild(cause=events[0].causation_id) if by_person else None


def _waiting(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    """Return the command of a pause or of a wait for the provider, or None for any other wait.

    The events of a pause begin with `build.woken` when the build slept.
    """
    facts = [one.data for one in events[:2]]
    paused = facts[-1] if isinstance(facts[0], BuildWoken) else facts[0]
    if isinstance(facts[0], BuildWaiting) and facts[0].reason == "provider":
        return WaitForProvider("" if facts[0].detail is None else _text(facts[0].detail))
    if not isinstance(paused, BuildWaiting) or paused.reason != "paused":
        return None
    if events[0].causation_id == state.cause and state.waits_for == "paused":
        return None  # the run of the build reports that its call has ended
    reason = None if paused.detail is None else _text(paused.detail)
    return PauseBuild(reason, cause=events[0].causation_id)


def _stalled(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    fact = events[0].data
    if not isinstance(fact, BuildStalled):
        return None
    return ReportStall(fact.reason, _text(fact.detail), cause=events[0].causation_id)


def _provider(state: BuildState, events: Sequence[RecordedEvent]) -> Command | None:
    fact = events[0].data
    if not isinstance(fact, ProviderBlocked | ProviderRecovered):
        return None
    return ReportProvider(fact, cause=events[0].causation_id)


def _text(value: str | BlobRef) -> str:
    return value if isinstance(value, str) else value.ref


_READERS: Mapping[type[Event], Reader] = {
    BuildAccepted: _accepted,
    ModelCallResponded: _responded,
    ModelCallFailed: _failed,
    AgentSteered: _steered,
    ToolCallAnswered: _answered,
    EscalationResolved: _answered,
    ApprovalResolved: _decided,
    BuildPhaseChanged: _phase_changed,
    BuildLimitsChanged: _limits,
    BuildResumed: _resumed,
    BuildRewound: _rewound,
    BuildWaiting: _waiting,
    BuildWoken: _waiting,
    BuildStalled: _stalled,
    ProviderBlocked: _provider,
    ProviderRecovered: _provider,
}
