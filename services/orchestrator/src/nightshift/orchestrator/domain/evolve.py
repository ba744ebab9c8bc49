"""`evolve(state, event)` returns the state of a build after one more event of its stream, of any type."""

from collections.abc import Iterable
from typing import assert_never
from uuid import UUID

from nightshift.contracts.events.budget import (
    BudgetDenied,
    BudgetEvent,
    BudgetGranted,
    BudgetSettled,
    WakeRequested,
)
from nightshift.contracts.events.build import (
    AgentSteered,
    ApprovalRequested,
    ApprovalResolved,
    BudgetRequested,
    BuildAccepted,
    BuildCancelled,
    BuildEvent,
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
    CheckpointSaved,
    ContextCondensed,
    CriteriaJudged,
    EscalationRaised,
    EscalationResolved,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    Phase,
    ProviderBlocked,
    ProviderRecovered,
    QuestionAsked,
    SleepRequested,
    ToolCallAnswered,
    ToolCallRequested,
)
from nightshift.contracts.events.sandbox import SandboxEvent
from nightshift.contracts.events.snapshot import SnapshotEvent
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import Fault
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain import (
    approvals,
    context,
    conversation,
    customer_tools,
    failure_counters,
    forks,
    funds,
    judging,
    questions,
    side_calls,
    workspace,
)
from nightshift.orchestrator.domain.phases import move
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import BuildState, OpenCall, RunMode

StreamEvent = BuildEvent | SandboxEvent | SnapshotEvent | BudgetEvent

#: Events that only inform people. They change no state.
_REPORTS = (BuildStalled, ProviderBlocked, ProviderRecovered)
#: The id of an event that is decided but not recorded yet.
_NOT_RECORDED = UUID(int=0)


def evolve(state: BuildState, event: RecordedEvent) -> BuildState:
    """Return the state after `event`, which must be the next event of the stream.

    Raises Fault when a version is missing, and for a type of event that does not belong into a build's stream.
    """
    if event.version != state.version + 1:
        raise Fault(f"version {event.version} of {event.stream_id} cannot follow version {state.version}")
    return _fold(state, event.data, event.event_id, event.version)


def evolve_all(state: BuildState, events: Iterable[Event]) -> BuildState:
    """Return the state after events that are decided but not recorded yet. Its version and ids have no meaning."""
    for event in events:
        state = _fold(state, event, _NOT_RECORDED, state.version)
    return state


def _fold(state: BuildState, data: Event, event_id: UUID, version: int) -> BuildState:
    if isinstance(data, BuildEvent) and not isinstance(data, _REPORTS):
        return _build_event(replace(state, version=version, cause=event_id), data, event_id)
    state = replace(state, version=version)
    if isinstance(data, _REPORTS):
        return state  # the build does not move, so the cause of the next decision stays the same
    if isinstance(data, SandboxEvent):
        return workspace.sandbox_event(state, data, event_id)
    if isinstance(data, BudgetEvent):
        return _budget_event(state, data, event_id)
    if isinstance(data, SnapshotEvent):
        return workspace.snapshot_event(state, data)
    raise Fault(f"{data.type} does not belong on a build's stream")


def _budget_event(state: BuildState, data: BudgetEvent, event_id: UUID) -> BuildState:
    match data:
        case BudgetGranted():
            return replace(state, cause=event_id, funds=funds.granted(state.funds, data))
        case BudgetDenied():
            return replace(state, cause=event_id, funds=funds.denied(state.funds, data))
        case BudgetSettled():
            return replace(state, funds=funds.settled(state.funds, data))
        case WakeRequested():
            if state.mode is not RunMode.SLEEPING and questions.about_the_budget(state) is None:
                return state
            return replace(state, cause=event_id, wake_reason=data.reason)
        case _:
            assert_never(data)


def _build_event(state: BuildState, data: BuildEvent, event_id: UUID) -> BuildState:
    match data:
        case BuildAccepted():
            return replace(state, accepted=data)
        case BuildPhaseChanged():
            return _phase_changed(state, data)
        case ModelCallStarted():
            return _started(state, data, event_id)
        case ModelCallResponded():
            return _responded(state, data)
        case ModelCallFailed():
            return _failed_call(state, data)
        case ToolCallRequested():
            if data.purpose == "judge":
                return judging.requested(state, data)
            return _call_requested(state, data)
        case CheckpointSaved():
            return replace(state, conversation=replace(state.conversation, checkpoint=data.turn))
        case AgentSteered():
            state = replace(
                state, conversation=conversation.add_message(state.conversation, data.message, data.reason)
            )
            return replace(
                state,
                funds=funds.warned(state.funds, data.reason),
                counters=failure_counters.steered(state.counters, data.reason),
                workspace=workspace.news_delivered(state.workspace, data.reason),
            )
        case BudgetRequested():
            return replace(state, funds=funds.requested(state.funds, data))
        case SleepRequested():
            return _slept(state, data)
        case BuildWoken():
            return replace(
                state,
                mode=RunMode.RUNNING,
                wake_reason=None,
                counters=replace(state.counters, failures=0, retry_at=None),
            )
        case BuildReady() | BuildFailed() | BuildCancelled():
            return replace(state, mode=RunMode.ENDED, end=data)
        case QuestionAsked():
            return questions.asked(state, data)
        case ToolCallAnswered():
            return questions.call_answered(state, data)
        case ApprovalRequested():
            return approvals.requested(state, data)
        case ApprovalResolved():
            return approvals.resolved(state, data)
        case EscalationRaised():
            return questions.raised(state, data)
        case EscalationResolved():
            return questions.resolved(state, data)
        case BuildWaiting():
            return questions.waiting(state, data)
        case BuildResumed():
            return questions.resumed(state)
        case BuildLimitsChanged():
            return questions.limits_changed(state, data)
        case ContextCondensed():
            return context.condensed(state, data)
        case CriteriaJudged():
            return judging.judged(state, data)
        case BuildForked():
            return forks.forked(state, data)
        case BuildRewound():
            return forks.rewound(state, data)
        case BuildStalled() | ProviderBlocked() | ProviderRecovered():
            return state  # `_fold` has handled these
        case _:
            assert_never(data)


def _phase_changed(state: BuildState, data: BuildPhaseChanged) -> BuildState:
    phase = move(state.phase, data.to_phase)
    if state.phase is not Phase.CHECKS:
        return replace(state, phase=phase)
    # A move out of the checks ends their round, and also the judge's round.
    seen = replace(state.workspace, replaced=False)
    return replace(state, phase=phase, tool_calls=(), judging=None, workspace=seen)


def _call_requested(state: BuildState, data: ToolCallRequested) -> BuildState:
    left = tuple(one for one in state.approved_calls if one.call_id != data.call_id)
    state = conversation.requested(replace(state, approved_calls=left), data)
    return customer_tools.requested(state, data) if data.purpose == "customer" else state


def _started(state: BuildState, data: ModelCallStarted, event_id: UUID) -> BuildState:
    role = data.role or "builder"
    call = OpenCall(data.turn, data.attempt, data.lease_id, data.reserve_microusd, event_id, data.model, role)
    paid = replace(
        state,
        call=call,
        funds=funds.taken(state.funds, data.lease_id, data.reserve_microusd),
        counters=replace(state.counters, retry_at=None),
    )
    if role != "builder":
        return side_calls.started(replace(paid, side_calls=state.side_calls + 1), data)
    count = state.side_calls if data.turn == state.conversation.turn else 0
    return replace(paid, conversation=conversation.started(state, data), side_calls=count)


def _responded(state: BuildState, data: ModelCallResponded) -> BuildState:
    paid = replace(state, call=None, funds=funds.spent(state.funds, state.call, data.cost_microusd))
    counters = failure_counters.answered(state.counters, data.stop_reason)
    if data.role not in (None, "builder"):
        # Cut answers are counted for the builder only, so the count stays as it was.
        return side_calls.responded(replace(paid, counters=replace(counters, cuts=state.counters.cuts)), data)
    return replace(paid, conversation=conversation.responded(state.conversation, data), counters=counters)


def _failed_call(state: BuildState, data: ModelCallFailed) -> BuildState:
    paid = replace(
        state,
        call=None,
        funds=funds.spent(state.funds, state.call, data.cost_microusd),
        counters=failure_counters.call_failed(state.counters, data),
    )
    if data.role not in (None, "builder"):
        return side_calls.failed(paid, data)
    if data.kind == "too_long":
        return replace(paid, conversation=replace(state.conversation, too_long=True))
    return paid


def _slept(state: BuildState, data: SleepRequested) -> BuildState:
    # The budget service settles the grants of a build that sleeps.
    return replace(
        state,
        mode=RunMode.SLEEPING,
        wake_reason=None,
        funds=replace(state.funds, grants=(), asked=None, refused_until=None),
        counters=failure_counters.slept(state.counters, data.reason),
    )
