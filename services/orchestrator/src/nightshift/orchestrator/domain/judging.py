"""Folds the judge's part of a build: its conversation in one round, its tool calls, and its verdicts.

The judge has a conversation of its own for each round of checks. The module `verdicts` decides what follows.
"""

from typing import Any

from pydantic import ValidationError

from nightshift.contracts.events.build import (
    CriteriaJudged,
    ModelCallFailed,
    ModelCallResponded,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.events.proof import CriterionVerdict
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.contracts.model import BlobRef
from nightshift.contracts.tools import ReportVerdicts
from nightshift.orchestrator.domain import conversation
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import (
    AssistantMessage,
    BuildState,
    Judging,
    ToolCall,
    ToolResult,
)

_REPORT = "Call `report_verdicts` with one verdict for each criterion. Nothing else counts."
_NOT_RUN = "Not run: nothing more is read. Call `report_verdicts` now, with what you have seen."
#: The most mistakes that the answer to one call names.
_COMPLAINTS = 5
#: The most characters of all evidence in a round, so that the event stays small.
_EVIDENCE = 60_000


def open_calls(state: BuildState) -> bool:
    """Return whether a tool call of the judge has no result yet."""
    return state.judging is not None and any(call.result is None for call in state.judging.tool_calls)


def tokens_bound(state: BuildState) -> int | None:
    """Return the most tokens that the judge's next request can have, or None before its first answer in this round."""
    return None if state.judging is None else continued(state).conversation.tokens


def started(state: BuildState) -> BuildState:
    """Fold the start of a model call of the judge: add the results of the tool calls in the judge's last answer."""
    return replace(state, judging=continued(state))


def continued(state: BuildState) -> Judging:
    """Return the round of judging, extended by what the judge's next request sends: the results of its tool calls.

    A tool call that was not requested gets an error as its result.
    """
    judging = state.judging or Judging()
    talk = judging.conversation
    last = talk.entries[-1] if talk.entries else None
    if not isinstance(last, AssistantMessage):
        return judging
    results = {call.tool_use_id: call for call in judging.tool_calls}
    answers = tuple(
        conversation.observation(results[use["id"]])
        if use["id"] in results
        else ToolResult(str(use["id"]), True, _refusal(use, len(state.request.criteria)))
        for use in uses_of(last)
    )
    more = conversation.with_results(talk, answers) if answers else conversation.with_message(talk, _REPORT)
    return replace(judging, conversation=more, tool_calls=())


def responded(state: BuildState, data: ModelCallResponded) -> BuildState:
    """Fold an answer of the judge: add it to the judge's conversation, and its cost to the round."""
    judging = state.judging or Judging()
    return replace(
        state,
        judging=replace(
            judging,
            conversation=conversation.responded(judging.conversation, data),
            answers=judging.answers + 1,
            usage=_sum(judging.usage, data.usage),
            cost=judging.cost + data.cost_microusd,
        ),
    )


def failed(state: BuildState, data: ModelCallFailed) -> BuildState:
    """Fold a failed model call of the judge: add its cost to the round."""
    judging = state.judging or Judging()
    return replace(state, judging=replace(judging, cost=judging.cost + data.cost_microusd))


def requested(state: BuildState, data: ToolCallRequested) -> BuildState:
    """Fold a tool call of the judge. It does not count towards the limit of the agent's tool calls."""
    judging = state.judging or Judging()
    call = ToolCall(data.call_id, data.index, data.tool, data.tool_use_id, "judge", "")
    calls = (*judging.tool_calls, call)
    return replace(state, judging=replace(judging, tool_calls=calls, calls_made=judging.calls_made + 1))


def completed(state: BuildState, data: ToolCallCompleted) -> BuildState:
    """Fold the result of a judge's tool call. A second result changes nothing."""
    if state.judging is None:
        return state
    calls = tuple(
        replace(call, result=data) if call.call_id == data.call_id and call.result is None else call
        for call in state.judging.tool_calls
    )
    return replace(state, judging=replace(state.judging, tool_calls=calls))


def judged(state: BuildState, data: CriteriaJudged) -> BuildState:
    """Fold the verdicts, which end the round of judging."""
    before = state.judgement
    judgement = replace(
        before, rounds=data.round, rounds_in_row=before.rounds_in_row + 1, verdicts=data.verdicts
    )
    return replace(
        state,
        judgement=judgement,
        judging=replace(state.judging or Judging(), verdicts=data.verdicts),
    )


def _refusal(use: dict[str, Any], count: int) -> str:
    wrong = read_verdicts(use, count)
    return wrong if isinstance(wrong, str) else _NOT_RUN


def read_verdicts(use: dict[str, Any], count: int) -> dict[int, CriterionVerdict] | str:
    """Return index of the criterion → verdict, from the judge's call `use` of `report_verdicts`.

    `count` is the number of criteria. Returns a text that says what is wrong with the call when it is invalid.
    """
    if use["name"] != ReportVerdicts.tool:
        return _NOT_RUN
    try:
        given = ReportVerdicts.model_validate(use.get("input"))
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False, include_context=False)
        said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in details[:_COMPLAINTS])
        return f"These verdicts cannot be taken. {said}"
    numbers = [one.criterion for one in given.verdicts]
    if sorted(numbers) != list(range(1, count + 1)):
        return f"Give one verdict for each of the criteria 1 to {count}, not for {numbers}."
    longest = max(_EVIDENCE // count, 1)
    return {
        one.criterion - 1: CriterionVerdict(
            index=one.criterion - 1, met=one.met, evidence=one.evidence[:longest]
        )
        for one in given.verdicts
    }


def uses_of(message: AssistantMessage) -> list[dict[str, Any]]:
    """Return the blocks of an answer that call a tool."""
    content = () if isinstance(message.content, BlobRef) else message.content
    return [block for block in content if block.get("type") == "tool_use"]


def _sum(one: Usage, other: Usage) -> Usage:
    return Usage(**{name: getattr(one, name) + getattr(other, name) for name in Usage.model_fields})
