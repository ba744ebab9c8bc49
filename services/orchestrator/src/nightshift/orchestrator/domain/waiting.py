"""Decides when a build waits for a person, when it continues, and which events a person's answer leads to."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from nightshift.contracts.events.build import (
    AgentSteered,
    BuildLimitsChanged,
    BuildResumed,
    BuildRewound,
    BuildWaiting,
    BuildWoken,
    EscalationRaised,
    EscalationResolved,
    ToolCallAnswered,
)
from nightshift.contracts.model import Event
from nightshift.orchestrator.domain import approvals, cost_limits, customer_tools, verdicts
from nightshift.orchestrator.domain.calls import checkpoint, fail
from nightshift.orchestrator.domain.commands import (
    AnswerQuestion,
    Escalate,
    FailReason,
    MessageAgent,
    RewindBuild,
    SetLimits,
)
from nightshift.orchestrator.domain.evolve import evolve_all
from nightshift.orchestrator.domain.forks import may_rewind
from nightshift.orchestrator.domain.questions import ACCEPT
from nightshift.orchestrator.domain.state import BuildState, OpenQuestion, RunMode

Events = tuple[Event, ...]
ResumeReason = Literal[
    "answer", "approval", "customer_tool", "message", "person", "default", "limits", "provider"
]
WaitReason = Literal["question", "limit", "escalation", "approval", "customer_tool"]

LIMITS = frozenset({"turn_limit", "tool_call_limit", "cost_limit"})
#: The options of an escalation. An answer may add a text to an option.
CONTINUE, FINISH, END = "continue", "finish", "end"
#: How many turns and tool calls the option `finish` adds to a limit.
_TO_FINISH = 10

_FINISH_NOW = (
    "You have a few more turns: finish what matters most, leave the project in a working state, and end."
)
_MESSAGE_INSTEAD = "The person did not answer this question, and sent a message instead. It follows."
_ENDED = "Not answered: the build ended."


def wait(state: BuildState) -> BuildWaiting:
    """Return the event with which a build begins to wait for an answer from outside.

    The event names the oldest open question. Without one, it names the oldest approval, or else the oldest call of a
    customer's tool.
    """
    reason, question_id = _waits_on(state)
    times = [
        *(one.deadline for one in state.questions),
        *(one.deadline for one in state.approvals),
        *(one.deadline for one in state.customer_calls),
        state.request.deadline,
    ]
    return BuildWaiting(
        reason=reason,
        question_id=question_id,
        until=min((time for time in times if time is not None), default=None),
    )


def _waits_on(state: BuildState) -> tuple[WaitReason, str]:
    if state.questions:
        question = state.questions[0]
        if question.kind is None:
            return "question", question.question_id
        return "limit" if question.kind in LIMITS else "escalation", question.question_id
    if state.approvals:
        return "approval", state.approvals[0].call.call_id
    return "customer_tool", state.customer_calls[0].call_id


def escalate(state: BuildState, command: Escalate, escalation_id: UUID) -> Events:
    """Return the events that ask a person how to continue, and with which the build begins to wait for the answer."""
    raised = EscalationRaised(
        escalation_id=escalation_id,
        kind=command.kind,
        detail=command.detail,
        tried=command.tried,
        options=command.options,
        deadline=state.request.deadline,
    )
    events = (*checkpoint(state), raised)
    return (*events, wait(evolve_all(state, events)))


def answer(state: BuildState, command: AnswerQuestion) -> Events:
    """Return the events of an answer to a question or an escalation. Returns none when the question is not open."""
    question = open_question(state, command.question_id)
    if question is None:
        return ()
    text = "\n".join(part for part in (command.option, command.text) if part)
    if question.kind is None:
        by: Literal["person", "default"] = "default" if command.by_default else "person"
        answered = ToolCallAnswered(call_id=question.question_id, output=text, option=command.option, by=by)
        return (
            answered,
            *resume(evolve_all(state, (answered,)), "default" if command.by_default else "answer"),
        )
    option = command.option or CONTINUE
    resolved = EscalationResolved(
        escalation_id=UUID(question.question_id), option=option, comment=command.text
    )
    if option == END:
        reason: FailReason = question.kind
        after = evolve_all(state, (resolved,))
        detail = "a person ended the build at its escalation"
        if question.kind == "unproven":
            detail = f"{detail}, because these criteria are not met:\n{verdicts.summary(state)}"
        return (resolved, *closed(after), *fail(after, reason, detail))
    if command.by_default and question.kind == "day_limit":
        return (resolved, *resume(evolve_all(state, (resolved,)), "limits"))
    if option == ACCEPT:
        return (resolved, *resume(evolve_all(state, (resolved,)), "answer"))
    events: Events = (
        resolved,
        AgentSteered(reason="answer", message=_told(question.kind, option, command.text)),
    )
    if question.kind in LIMITS:
        events = (*events, _more(state, few=option == FINISH))
    return (*events, *resume(evolve_all(state, events), "answer"))


def _told(kind: str, option: str, text: str | None) -> str:
    parts = [f"The build was stopped ({kind}), and a person answered: {option}."]
    parts += [_FINISH_NOW] if option == FINISH else []
    parts += [text] if text else []
    return " ".join(parts)


def _more(state: BuildState, *, few: bool) -> BuildLimitsChanged:
    """Return the event that raises the limits of the build.

    If `few`, the build gets `_TO_FINISH` more turns and tool calls. Otherwise it gets as many as it has used so far,
    but at least `_TO_FINISH`. The cost limit rises only when the build has stopped at it.
    """
    turns, calls = state.conversation.turn, state.tool_calls_made
    return BuildLimitsChanged(
        turn_limit=max(state.request.turn_limit, turns + (_TO_FINISH if few else max(turns, _TO_FINISH))),
        tool_call_limit=max(
            state.request.tool_call_limit, calls + (_TO_FINISH if few else max(calls, _TO_FINISH))
        ),
        cost_limit_microusd=cost_limits.raised(state, turns=_TO_FINISH, few=few),
    )


def message(state: BuildState, command: MessageAgent) -> Events:
    """Return the events of a person's message. The message closes open questions and denies open approvals.

    A wait at a limit and a pause go on after the message. While calls of customer's tools are open, the build keeps
    waiting for their results.
    """
    events: Events = (AgentSteered(reason="person", message=command.message),)
    events += approvals.replaced_by_message(state)
    for question in state.questions:
        if question.kind is None:
            events += (ToolCallAnswered(call_id=question.question_id, output=_MESSAGE_INSTEAD, by="person"),)
        elif question.kind not in LIMITS:
            events += (EscalationResolved(escalation_id=UUID(question.question_id), option=CONTINUE),)
    return (*events, *resume(evolve_all(state, events), "message"))


def set_limits(state: BuildState, command: SetLimits) -> Events:
    """Return the event of the new limits. A build that waits at a limit continues when the new limit allows it."""
    changed = BuildLimitsChanged(
        turn_limit=command.turn_limit or state.request.turn_limit,
        tool_call_limit=command.tool_call_limit or state.request.tool_call_limit,
        cost_limit_microusd=command.cost_limit_microusd or state.request.cost_limit_microusd,
    )
    cost = changed.cost_limit_microusd
    room = changed.turn_limit > state.conversation.turn and changed.tool_call_limit > state.tool_calls_made
    room = room and (cost is None or cost > state.funds.spent)
    events: Events = (changed,)
    events += tuple(
        EscalationResolved(escalation_id=UUID(question.question_id), option=CONTINUE)
        for question in state.questions
        if room and question.kind in LIMITS
    )
    return (*events, *resume(evolve_all(state, events), "limits"))


def pause(state: BuildState, reason: str | None) -> Events:
    """Return the events that pause the build. Returns none when it is paused already.

    New money wakes each build that sleeps. So a sleeping build is woken first, and then paused.
    """
    if state.waits_for == "paused":
        return ()
    woken = (BuildWoken(reason="person"),) if state.mode is RunMode.SLEEPING else ()
    return (*woken, paused(state, reason))


def paused(state: BuildState, detail: str | None = None) -> BuildWaiting:
    return BuildWaiting(reason="paused", detail=detail, until=state.request.deadline)


def resume(state: BuildState, reason: ResumeReason) -> Events:
    """Return the events that a build appends when one of the answers for which it waits has come.

    When no other answer is missing, that is `build.resumed` with this `reason`. Else it is `build.waiting`, or nothing
    when that event would repeat the one before. Returns nothing for a build that does not wait or is paused:
    `resume_paused` ends a pause.
    """
    if state.mode is not RunMode.WAITING or state.waits_for == "paused":
        return ()
    if not state.open_outside:
        return (BuildResumed(reason=reason),)
    left = wait(state)
    same = (left.question_id, left.until) == (state.waits_on, state.waits_until)
    return () if same else (left,)


def then_resume(state: BuildState, events: Events, reason: ResumeReason) -> Events:
    """Return `events`, and what `resume` returns after them. Returns none when `events` is empty."""
    return (*events, *resume(evolve_all(state, events), reason)) if events else ()


def resume_paused(state: BuildState, now: datetime) -> Events:
    """Return the event that ends a pause, and the requests of the tool calls that were approved during the pause.

    Returns none when the build is not paused.
    """
    if state.waits_for != "paused":
        return ()
    return (BuildResumed(reason="person"), *(approvals.run(call, now) for call in state.approved_calls))


def rewind(state: BuildState, command: RewindBuild) -> Events:
    """Return the events that set the build back to the end of a turn, and close its open questions and calls.

    Returns none while the build is working.
    """
    if not may_rewind(state):
        return ()
    base = command.base
    rewound = BuildRewound(
        to_turn=base.at_turn,
        to_version=base.at_version,
        conversation=base.conversation,
        snapshot_key=base.snapshot_key,
        tree_digest=base.tree_digest,
    )
    said = () if command.message is None else (AgentSteered(reason="person", message=command.message),)
    events: Events = (*closed(state), rewound, *said)
    return (*events, *resume(evolve_all(state, events), "person"))


def closed(state: BuildState) -> Events:
    """Return the events that close all open questions, approvals and customers' calls of a build that ends."""
    questions = tuple(
        ToolCallAnswered(call_id=one.question_id, is_error=True, output=_ENDED, by="cancelled")
        if one.kind is None
        else EscalationResolved(escalation_id=UUID(one.question_id), option=END)
        for one in state.questions
    )
    return (*questions, *approvals.closed(state), *customer_tools.closed(state))


def open_question(state: BuildState, question_id: str) -> OpenQuestion | None:
    """Return the open question or escalation with this id, or None when there is none."""
    return next((one for one in state.questions if one.question_id == question_id), None)
