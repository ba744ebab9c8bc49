"""`decide(state, command, now, policy)` returns the events that a command leads to. Pure.

`causes` returns the cause of each of these events. The repository derives the event's id from its cause.
"""

from datetime import datetime
from typing import Literal, assert_never
from uuid import UUID

from nightshift.contracts import ids
from nightshift.contracts.events.build import (
    AgentSteered,
    BudgetRequested,
    BuildAccepted,
    BuildCancelled,
    BuildPhaseChanged,
    BuildReady,
    BuildStalled,
    BuildWoken,
    EscalationRaised,
    ModelCallFailed,
    ModelCallResponded,
    ModelCallStarted,
    Phase,
    SleepRequested,
)
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.model import Event
from nightshift.contracts.models import TIERS
from nightshift.eventlog.errors import Fault
from nightshift.orchestrator.domain import (
    approvals,
    calls,
    checks,
    context,
    customer_tools,
    forks,
    funds,
    model_choice,
    proof,
    provider_waits,
    side_calls,
    verdicts,
    waiting,
    workspace,
)
from nightshift.orchestrator.domain.account_policy import max_active_builds, resolved
from nightshift.orchestrator.domain.commands import (
    AbandonCall,
    AcceptBuild,
    Answer,
    AnswerQuestion,
    AskBudget,
    Begin,
    CallFailed,
    CancelBuild,
    Command,
    Complete,
    Escalate,
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
    SendBack,
    SetLimits,
    Sleep,
    StartCall,
    StartWaiting,
    StopCall,
    StopOnFault,
    WaitForProvider,
    Wake,
)
from nightshift.orchestrator.domain.evolve import evolve_all
from nightshift.orchestrator.domain.next_step import loop_messages, worst_case
from nightshift.orchestrator.domain.phases import may_move
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.setup import setup_calls
from nightshift.orchestrator.domain.state import BuildState, RunMode

Events = tuple[Event, ...]

_REPLACED = (
    "The sandbox in which your work was checked is gone, and so is what ran in it. Start again what must run, open its"
    " port, and end."
)
_ENDED = "stopped, because the build ended"
_PAUSED = "stopped, because a person paused the build"
_ACTIONS = {
    "fault": "Read `build.run_failed` in the log of the orchestrator and update Nightshift. `nightshift wake` wakes a"
    " build that sleeps for it; one that does not sleep is tried again by itself.",
    "dependency": "Check that the servers that `nightshift doctor` names answer. The build goes on by itself.",
}


def causes(state: BuildState, command: Command, events: Events) -> tuple[UUID, ...]:
    """Return the cause of each event of a decision."""
    cause = _cause(state, command)
    return tuple(
        state.call.event_id
        if state.call is not None and isinstance(event, ModelCallResponded | ModelCallFailed)
        else cause
        for event in events
    )


def _cause(state: BuildState, command: Command) -> UUID:
    match command:
        case AcceptBuild():
            return ids.request_cause(BuildRequested.type, command.request.build_id)
        case (
            CancelBuild()
            | MessageAgent()
            | ReportStall()
            | ReportProvider()
            | PauseBuild()
            | ResumeBuild()
            | RewindBuild()
            | SetLimits()
        ):
            return command.cause
        case AnswerQuestion() | GiveApproval() | GiveResult() if command.cause is not None:
            return command.cause
        case Answer() | CallFailed() | AbandonCall() | StopOnFault() if state.call is not None:
            return state.call.event_id
        case _:
            if state.cause is None:
                raise Fault("a build without events cannot cause one")
            return state.cause


def decide(state: BuildState, command: Command, now: datetime, policy: Policy) -> Events:
    """Return the events that `command` leads to, in order.

    Returns none when the command means nothing in this state, such as after the end of the build.
    """
    if isinstance(command, AcceptBuild):
        request = resolved(command.request, command.account)
        return _accept(request, command.base, policy, max_active_builds(command.account))
    if state.mode is RunMode.ENDED:
        return ()
    match command:
        case Begin():
            return _begin(state, policy)
        case AskBudget():
            return (_ask(state, _cause(state, command), command.minimum_microusd, policy),)
        case StartCall():
            return _start(state, command)
        case Answer():
            return calls.answered(state, command, policy, now)
        case CallFailed():
            return calls.failed(state, command, now, policy)
        case AbandonCall():
            return calls.abandoned(state, command, now, policy)
        case StopOnFault():
            return _stop_on_fault(state, command)
        case ReportStall():
            return (_stalled(command.reason, command.detail),)
        case ReportProvider():
            return (command.fact,)
        case Sleep():
            return (*calls.checkpoint(state), _sleep(state, command.wake_at))
        case Wake():
            return _wake(state, now, policy)
        case SendBack():
            return _send_back(state)
        case Complete():
            return _complete(state, command)
        case Fail():
            ended = (*calls.stopped(state, command.seen, _ENDED), *waiting.closed(state))
            return ended + calls.fail(evolve_all(state, ended), command.reason, command.detail)
        case CancelBuild():
            return _cancel(state, command)
        case MessageAgent():
            return _resumed(state, waiting.message(state, command), command, now, policy)
        case AnswerQuestion():
            return _resumed(state, waiting.answer(state, command), command, now, policy)
        case GiveApproval():
            reason: waiting.ResumeReason = "default" if command.cause is None else "approval"
            events = waiting.then_resume(state, approvals.give(state, command, now), reason)
            return _resumed(state, events, command, now, policy)
        case GiveResult():
            reason = "default" if command.cause is None else "customer_tool"
            events = waiting.then_resume(state, customer_tools.give(state, command), reason)
            return _resumed(state, events, command, now, policy)
        case SetLimits():
            return _resumed(state, waiting.set_limits(state, command), command, now, policy)
        case RewindBuild():
            return _resumed(state, waiting.rewind(state, command), command, now, policy)
        case ResumeBuild():
            return _resumed(state, waiting.resume_paused(state, now), command, now, policy)
        case PauseBuild():
            return waiting.pause(state, command.reason)
        case StartWaiting():
            return (waiting.wait(state),)
        case WaitForProvider():
            return provider_waits.wait(state, command.detail)
        case ResumeFromProvider():
            return _resumed(state, provider_waits.resume(state), command, now, policy)
        case StopCall():
            return (*calls.stopped(state, command.seen, _PAUSED), waiting.paused(state))
        case Escalate():
            return waiting.escalate(
                state, command, ids.event_id(_cause(state, command), EscalationRaised.type)
            )
        case _:
            assert_never(command)


def _accept(request: BuildRequested, base: ForkBase | None, policy: Policy, max_active: int | None) -> Events:
    fields = {name: getattr(request, name) for name in BuildRequested.model_fields}
    models, tier = model_choice.models_of(request, policy), TIERS[request.tier]
    accepted = BuildAccepted(
        **{**fields, "model": models["builder"], "models": models},
        effort=model_choice.effort_of(request, models["builder"]),
        turn_limit=policy.turn_limit or tier.turns,
        tool_call_limit=policy.tool_call_limit or tier.tool_calls,
        max_active_builds=max_active,
    )
    if base is None:
        return (accepted,)
    return (forks.accepted(accepted, request, base), *forks.events(request, base))


def _begin(state: BuildState, policy: Policy) -> Events:
    starting = BuildPhaseChanged(from_phase=state.phase, to_phase=Phase.STARTING)
    if state.cause is None:
        raise Fault("a build without events cannot begin")
    if state.request.base_build_id is not None:
        # A fork's workspace is prepared. Its next step counts the conversation and then requests the money.
        return (starting,)
    begun = (starting, *setup_calls(state.request))
    if state.request.attachments:
        return begun  # the provider counts the tokens of attachments before money is requested
    after = evolve_all(state, begun)
    return (*begun, _ask(after, state.cause, worst_case(after, policy), policy))


def _ask(state: BuildState, cause: UUID, minimum: int, policy: Policy) -> BudgetRequested:
    return BudgetRequested(
        lease_id=ids.event_id(cause, BudgetRequested.type),  # the reservation gets the id of its request
        account_id=state.request.account_id,
        amount_microusd=funds.grant_amount(
            state.funds,
            minimum,
            turns=state.conversation.turn,
            grant_turns=policy.grant_turns,
            cost_limit=state.request.cost_limit_microusd,
        ),
        minimum_microusd=minimum,
        tier=state.request.tier,
    )


def _start(state: BuildState, command: StartCall) -> Events:
    if command.role != "builder":
        return (*calls.checkpoint(state), side_calls.start(state, command))
    events: list[Event] = []
    if may_move(state.phase, Phase.SCAFFOLD):
        events.append(BuildPhaseChanged(from_phase=state.phase, to_phase=Phase.SCAFFOLD))
    events.extend(calls.checkpoint(state))
    events.extend(
        AgentSteered.model_validate({"reason": reason, "message": message})
        for reason, message in loop_messages(state)
    )
    events.append(
        ModelCallStarted(
            turn=state.conversation.turn + 1 if state.conversation.answered else state.conversation.turn,
            attempt=1 if state.conversation.answered else state.conversation.attempt + 1,
            model=state.request.model,
            lease_id=command.lease_id,
            reserve_microusd=command.reserve_microusd,
            counted_tokens=command.counted_tokens,
        )
    )
    return tuple(events)


def _sleep(state: BuildState, wake_at: datetime) -> SleepRequested:
    return SleepRequested(reason="budget", account_id=state.request.account_id, wake_at=wake_at)


def _wake(state: BuildState, now: datetime, policy: Policy) -> Events:
    """Return the events that wake the build, and none unless the log has a wake. Without a grant they also request
    money.
    """
    if state.wake_reason is None or state.cause is None:
        return ()
    woken = BuildWoken(reason=state.wake_reason)
    after = evolve_all(state, (woken,))
    minimum = worst_case(after, policy)
    # The denied request relied on the provider's count, which the log does not contain. The loop counts again.
    enough = min(minimum, state.funds.needs) if context.is_guess(after, policy) else minimum
    if funds.covering(state.funds, enough, now) is not None:
        return (woken,)
    return (woken, _ask(state, state.cause, minimum, policy))


def _resumed(state: BuildState, events: Events, command: Command, now: datetime, policy: Policy) -> Events:
    """Return `events`, plus a request for money when they end a wait and no grant covers the next model call."""
    after = evolve_all(state, events)
    if state.mode is not RunMode.WAITING or after.mode is not RunMode.RUNNING or after.call is not None:
        return events
    if after.open_outside or after.tool_calls or after.funds.asked is not None:
        return events
    minimum = worst_case(after, policy)
    if funds.covering(after.funds, minimum, now) is not None:
        return events
    return (*events, _ask(after, _cause(state, command), minimum, policy))


def _stop_on_fault(state: BuildState, command: StopOnFault) -> Events:
    stopped = calls.stopped(state, command.seen, command.detail)
    sleep = SleepRequested(reason="person", account_id=state.request.account_id)
    stalled = _stalled("fault", command.detail)
    return (*stopped, stalled, sleep)


def _stalled(reason: Literal["fault", "dependency"], detail: str) -> BuildStalled:
    return BuildStalled(reason=reason, detail=detail, action=_ACTIONS[reason])


def _send_back(state: BuildState) -> Events:
    back = BuildPhaseChanged(from_phase=state.phase, to_phase=Phase.CODE)
    if checks.failed(state.tool_calls):
        return (AgentSteered(reason="check_failed", message=checks.report(state)), back)
    if state.workspace.replaced:
        news = " ".join((*state.workspace.news, _REPLACED))
        return (AgentSteered(reason="sandbox_restored", message=news), back)
    if (unproven := proof.missing(state)) is not None:
        return (AgentSteered(reason="unproven", message=proof.report(unproven)), back)
    if state.judging is not None and state.judging.verdicts is not None and verdicts.unmet(state):
        return (AgentSteered(reason="criteria_not_met", message=verdicts.report(state)), back)
    return (back,)


def _complete(state: BuildState, command: Complete) -> Events:
    if command.build_version is None:
        raise Fault("a build needs its number to be ready")
    if checks.failed(state.tool_calls) or proof.missing(state) is not None or verdicts.unmet(state):
        raise Fault("a build needs its proof to be ready")
    accepted = state.request
    ready = BuildReady(
        project_id=accepted.project_id,
        sandbox_id=state.workspace.sandbox_id or "",
        preview_url=workspace.preview_address(state.workspace),
        build_version=command.build_version,
        cost_microusd=state.funds.spent,
        turns=state.conversation.turn,
        tool_calls=state.tool_calls_made,
        proof=proof.shown_by(state).model_copy(update={"criteria": verdicts.shown(state)}),
        unsaved=state.workspace.skipped or None,
    )
    return (BuildPhaseChanged(from_phase=state.phase, to_phase=Phase.READY), ready)


def _cancel(state: BuildState, command: CancelBuild) -> Events:
    stopped = (*calls.stopped(state, command.seen, _ENDED), *waiting.closed(state))
    after = evolve_all(state, stopped)
    cancelled = BuildCancelled(
        reason=command.reason, cost_microusd=after.funds.spent, turns=state.conversation.turn
    )
    return (*stopped, BuildPhaseChanged(from_phase=state.phase, to_phase=Phase.CANCELLED), cancelled)
