"""Decides which tool calls wait for an approval and which events a person's decision leads to. Folds approvals."""

from datetime import datetime, timedelta

from nightshift.contracts.events.build import (
    AgentSteered,
    ApprovalRequested,
    ApprovalResolved,
    ToolCallAnswered,
    ToolCallRequested,
)
from nightshift.contracts.model import BlobRef, Event
from nightshift.orchestrator.domain import conversation
from nightshift.orchestrator.domain.approval_policy import reason_to_ask
from nightshift.orchestrator.domain.commands import GiveApproval
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import BuildState, OpenApproval

Events = tuple[Event, ...]

_DENIED = "A person denied this call, and it did not run"
_ANOTHER_WAY = "Do not try to do the same in another way; go on without it, or ask the person."
_TOO_LATE = f"Nobody approved this call in time, so it was denied and did not run. {_ANOTHER_WAY}"
_MESSAGE_INSTEAD = (
    "The person did not approve this call, so it did not run, and sent a message instead. It follows."
)
_ENDED = "Not run: the build ended."


def asked_about(state: BuildState, call: ToolCallRequested, now: datetime) -> ApprovalRequested | None:
    """Return the request for approval that this call needs before it runs, or None when it may run at once."""
    policy = state.request.approvals
    given = {} if isinstance(call.input, BlobRef) else call.input
    reason = reason_to_ask(policy, call.tool, given)
    if reason is None or policy is None:
        return None
    return ApprovalRequested(
        call_id=call.call_id,
        turn=call.turn,
        index=call.index,
        tool=call.tool,
        tool_use_id=call.tool_use_id,
        input=call.input,
        timeout_s=call.timeout_s,
        purpose="customer" if call.purpose == "customer" else "agent",
        reason=reason,
        deadline=None if policy.deadline_s is None else now + timedelta(seconds=policy.deadline_s),
    )


def requested(state: BuildState, data: ApprovalRequested) -> BuildState:
    """Fold a request for approval: add its tool call to the build's open calls, although the call does not run yet.

    The call counts towards the build's limit of tool calls.
    """
    call = ToolCallRequested(
        call_id=data.call_id,
        turn=data.turn,
        index=data.index,
        tool=data.tool,
        tool_use_id=data.tool_use_id,
        input=data.input,
        timeout_s=data.timeout_s,
        purpose=data.purpose,
    )
    open_ = OpenApproval(call, data.deadline)
    return conversation.requested(replace(state, approvals=(*state.approvals, open_)), call)


def resolved(state: BuildState, data: ApprovalResolved) -> BuildState:
    """Fold a decision about an approval: remove it from the open approvals.

    An approved call is kept until the build requests the call. During a pause, that happens when the build resumes.
    """
    found = open_approval(state, data.call_id)
    approved = (found.call,) if found is not None and data.approved else ()
    return replace(
        state,
        approvals=tuple(one for one in state.approvals if one is not found),
        approved_calls=(*state.approved_calls, *approved),
    )


def open_approval(state: BuildState, call_id: str) -> OpenApproval | None:
    """Return the open approval of this tool call, or None when it has none."""
    return next((one for one in state.approvals if one.call.call_id == call_id), None)


def give(state: BuildState, command: GiveApproval, now: datetime) -> Events:
    """Return the events of a person's decision, or of the denial at the deadline.

    Returns none when no approval of this call is open.
    """
    found = open_approval(state, command.call_id)
    if found is None:
        return ()
    answer = ApprovalResolved(
        call_id=command.call_id,
        approved=command.approved,
        comment=command.comment,
        by="person" if command.cause is not None else "default",
        given_by=command.given_by,
    )
    if not command.approved:
        return (answer, _not_run(found, command))
    events: Events = (answer,)
    if command.comment:
        told = f"The person approved your call of {found.call.tool} and said: {command.comment}"
        events += (AgentSteered(reason="answer", message=told),)
    return events if state.waits_for == "paused" else (*events, run(found.call, now))


def _not_run(approval: OpenApproval, command: GiveApproval) -> ToolCallAnswered:
    call_id = approval.call.call_id
    if command.cause is None:
        return ToolCallAnswered(call_id=call_id, is_error=True, output=_TOO_LATE, by="default")
    said = f", and says: {command.comment}" if command.comment else f". {_ANOTHER_WAY}"
    return ToolCallAnswered(call_id=call_id, is_error=True, output=f"{_DENIED}{said}", by="person")


def run(call: ToolCallRequested, now: datetime) -> ToolCallRequested:
    """Return the request with which an approved tool call runs.

    The deadline of a customer's tool counts from `now`, and not from the request for approval.
    """
    if call.purpose != "customer":
        return call
    return call.model_copy(update={"deadline": now + timedelta(seconds=call.timeout_s)})


def replaced_by_message(state: BuildState) -> Events:
    """Return the denials of all open approvals, because the person sent a message instead of a decision."""
    return tuple(
        event
        for one in state.approvals
        for event in (
            ApprovalResolved(call_id=one.call.call_id, approved=False, by="message"),
            ToolCallAnswered(call_id=one.call.call_id, is_error=True, output=_MESSAGE_INSTEAD, by="person"),
        )
    )


def closed(state: BuildState) -> Events:
    """Return the events that close the open approvals and the approved calls of a build that ends."""
    resolved_ = [
        ApprovalResolved(call_id=one.call.call_id, approved=False, by="cancelled") for one in state.approvals
    ]
    left = [*(one.call for one in state.approvals), *state.approved_calls]
    answered = [
        ToolCallAnswered(call_id=call.call_id, is_error=True, output=_ENDED, by="cancelled") for call in left
    ]
    return (*resolved_, *answered)
