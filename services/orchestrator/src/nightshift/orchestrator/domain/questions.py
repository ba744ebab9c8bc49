"""Folds questions, answers, escalations and waits. Reads a question from the agent's call of `ask_user`."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, get_args

from pydantic import ValidationError

from nightshift.contracts.events.build import (
    BuildLimitsChanged,
    BuildWaiting,
    EscalationRaised,
    EscalationResolved,
    QuestionAsked,
    ToolCallAnswered,
)
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.tools import AskUser
from nightshift.orchestrator.domain import customer_tools, workspace
from nightshift.orchestrator.domain.repetition import NEVER_COUNTS
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import BuildState, EscalationKind, OpenQuestion, RunMode, ToolCall

#: The option with which a person accepts the build although criteria are not met.
ACCEPT = "accept"
_KINDS: Mapping[str, EscalationKind] = {kind: kind for kind in get_args(EscalationKind)}


def asked_by(
    use: dict[str, Any], *, call_id: str, turn: int, index: int, now: datetime
) -> QuestionAsked | None:
    """Return the question in a `tool_use` block. Returns None for another tool or an invalid input."""
    if use.get("name") != AskUser.tool:
        return None
    try:
        given = AskUser.model_validate(use.get("input"))
    except ValidationError:
        return None  # the sandbox gateway refuses this like an invalid input of any other tool
    return QuestionAsked(
        question_id=call_id,
        turn=turn,
        index=index,
        tool_use_id=str(use["id"]),
        question=given.question,
        options=given.options,
        deadline=None if given.deadline_s is None else now + timedelta(seconds=given.deadline_s),
        default=given.default,
    )


def asked(state: BuildState, data: QuestionAsked) -> BuildState:
    """Fold a question of the agent: add it to the open questions and to the open tool calls.

    The question counts towards the limit of tool calls.
    """
    question = OpenQuestion(data.question_id, None, data.options, data.deadline, data.default)
    call = ToolCall(data.question_id, data.index, AskUser.tool, data.tool_use_id, "agent", NEVER_COUNTS)
    return replace(
        state,
        questions=(*state.questions, question),
        tool_calls=(*state.tool_calls, call),
        tool_calls_made=state.tool_calls_made + 1,
    )


def as_result(data: ToolCallAnswered) -> ToolCallCompleted:
    """Return the answer to a tool call as an event `tool_call.completed`, so that it is folded like a result from the
    sandbox.
    """
    return ToolCallCompleted(call_id=data.call_id, is_error=data.is_error, output=data.output, duration_ms=0)


def answered(state: BuildState, question_id: str) -> BuildState:
    return replace(state, questions=tuple(one for one in state.questions if one.question_id != question_id))


def call_answered(state: BuildState, data: ToolCallAnswered) -> BuildState:
    """Fold the result of a tool call that did not run in a sandbox.

    A call that was refused before it was requested is added to the build's calls, too. Such a call counts towards the
    limit of tool calls.
    """
    if data.tool is not None and data.tool_use_id is not None:
        state = _refused(state, data, data.tool, data.tool_use_id)
    state = replace(
        state, approved_calls=tuple(one for one in state.approved_calls if one.call_id != data.call_id)
    )
    state = customer_tools.answered(workspace.completed(state, as_result(data)), data.call_id)
    return answered(state, data.call_id)


def _refused(state: BuildState, data: ToolCallAnswered, tool: str, tool_use_id: str) -> BuildState:
    index = int(data.call_id.rpartition("/")[2])
    call = ToolCall(data.call_id, index, tool, tool_use_id, "customer", NEVER_COUNTS)
    return replace(state, tool_calls=(*state.tool_calls, call), tool_calls_made=state.tool_calls_made + 1)


def raised(state: BuildState, data: EscalationRaised) -> BuildState:
    question = OpenQuestion(str(data.escalation_id), _KINDS[data.kind], data.options, data.deadline)
    return replace(state, questions=(*state.questions, question))


def resolved(state: BuildState, data: EscalationResolved) -> BuildState:
    """Fold the answer to an escalation: remove it from the open questions.

    Tool calls made before it no longer count as repeated.
    """
    counters = replace(
        state.counters, recent_calls=(), warned_calls=(), steered=state.counters.steered - {"repetition"}
    )
    question = next((one for one in state.questions if one.question_id == str(data.escalation_id)), None)
    judgement = state.judgement
    if question is not None and question.kind == "unproven":
        judgement = replace(judgement, rounds_in_row=0, accepted=data.option == ACCEPT)
    state = replace(state, counters=counters, judgement=judgement)
    return answered(state, str(data.escalation_id))


def about_the_budget(state: BuildState) -> OpenQuestion | None:
    """Return the escalation for which a build waits because no day of the account could pay its next model call.

    Returns None when the build does not wait for such an escalation.
    """
    if state.mode is not RunMode.WAITING or state.waits_for != "escalation":
        return None
    return next((one for one in state.questions if one.kind == "day_limit"), None)


def waiting(state: BuildState, data: BuildWaiting) -> BuildState:
    """Fold the beginning of a wait. The build's grants are removed, because the budget service settles them."""
    return replace(
        state,
        mode=RunMode.WAITING,
        waited=state.waited or data.reason not in ("provider", "paused"),
        waits_for=data.reason,
        waits_on=data.question_id,
        waits_until=data.until,
        funds=replace(state.funds, grants=(), refused_until=None),
    )


def resumed(state: BuildState) -> BuildState:
    return replace(
        state, mode=RunMode.RUNNING, wake_reason=None, waits_for=None, waits_on=None, waits_until=None
    )


def limits_changed(state: BuildState, data: BuildLimitsChanged) -> BuildState:
    """Fold new limits of the build. The agent is warned again when the build comes near the new limits."""
    limits = {
        "turn_limit": data.turn_limit,
        "tool_call_limit": data.tool_call_limit,
        "cost_limit_microusd": data.cost_limit_microusd,
    }
    return replace(
        state,
        accepted=state.request.model_copy(update=limits),
        counters=replace(state.counters, steered=state.counters.steered - {"turns"}),
    )
