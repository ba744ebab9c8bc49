"""Decides about the judging of the request's criteria: when a round is due, and what the judge's answers lead to."""

from typing import Any

from nightshift.contracts.events.build import CriteriaJudged, Phase, ToolCallRequested
from nightshift.contracts.events.proof import CriterionVerdict
from nightshift.contracts.model import Event
from nightshift.contracts.models import card_of
from nightshift.contracts.tools import ReportVerdicts
from nightshift.eventlog.errors import Fault
from nightshift.orchestrator.domain import checks, proof
from nightshift.orchestrator.domain.judging import read_verdicts, uses_of
from nightshift.orchestrator.domain.model_choice import model_of
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import AssistantMessage, BuildState, Judging

Events = tuple[Event, ...]

_TIMEOUT_S = 120
#: The part of the model's context after which the judge may read no more.
_FULL = 0.5
_NO_VERDICT = "The judge gave no verdict about this criterion."


def due(state: BuildState) -> bool:
    """Return whether the judge makes the next model call.

    That is so when the checks have passed and the judge has not yet given its verdicts about this round.
    """
    if not state.request.criteria or state.judgement.accepted or state.phase is not Phase.CHECKS:
        return False
    if state.conversation.waiting or state.workspace.replaced:
        return False
    if not state.tool_calls or any(call.result is None for call in state.tool_calls):
        return False
    if state.judging is not None and state.judging.verdicts is not None:
        return False
    return not checks.failed(state.tool_calls) and proof.missing(state) is None


def unmet(state: BuildState) -> tuple[CriterionVerdict, ...]:
    """Return the verdicts of the current round of judging about criteria that are not met.

    Returns none when the request has no criteria, or when a person has accepted the build as it is. Raises Fault when
    the judge has not given its verdicts yet.
    """
    if not state.request.criteria or state.judgement.accepted:
        return ()
    if state.judging is None or state.judging.verdicts is None:
        raise Fault("the criteria of this build are not judged")
    return tuple(verdict for verdict in state.judging.verdicts if not verdict.met)


def summary(state: BuildState) -> str:
    """Return the criteria that are not met, each with the judge's evidence."""
    return "\n".join(
        f"{verdict.index + 1}. {state.request.criteria[verdict.index]}\n   {verdict.evidence}"
        for verdict in unmet(state)
    )


def report(state: BuildState) -> str:
    """Return the message to the agent about the criteria that are not met."""
    return (
        "The build is not ready: somebody else judged it by the criteria of the request. Not met:\n\n"
        f"{summary(state)}\n\nDo what is missing and show it, with a test where that is possible."
    )


def shown(state: BuildState) -> tuple[CriterionVerdict, ...] | None:
    """Return the newest verdicts for the proof, or None when the request has no criteria.

    When a person has accepted the build, `accepted` is True in each verdict that says that a criterion is not met.
    """
    if not state.request.criteria:
        return None
    accepted = True if state.judgement.accepted else None
    return tuple(
        verdict if verdict.met else verdict.model_copy(update={"accepted": accepted})
        for verdict in state.judgement.verdicts
    )


def following(state: BuildState, policy: Policy) -> Events:
    """Return the events to append after an answer of the judge: its verdicts, or the tool calls that the answer makes.

    Returns an empty tuple when the answer asks for more reads than the policy allows. The next answer must hold the
    verdicts then.
    """
    judging = state.judging or Judging()
    last = judging.conversation.entries[-1]
    uses = uses_of(last) if isinstance(last, AssistantMessage) else []  # empty when its calls were cut off
    for use in uses:
        given = read_verdicts(use, len(state.request.criteria))
        if not isinstance(given, str):
            return (_verdicts(state, given),)
    if judging.answers >= policy.judge_answers:
        return (_verdicts(state, {}),)
    if judging.answers == policy.judge_answers - 1 or _is_full(state):
        return ()
    first = len(state.tool_calls) + judging.calls_made
    reading = [use for use in uses if use["name"] != ReportVerdicts.tool]
    return tuple(_request(state, first + place, use) for place, use in enumerate(reading))


def _is_full(state: BuildState) -> bool:
    tokens = (state.judging.conversation.tokens or 0) if state.judging else 0
    return tokens > card_of(model_of(state.request, "judge")).context * _FULL


def _request(state: BuildState, index: int, use: dict[str, Any]) -> ToolCallRequested:
    turn = state.conversation.turn
    given = use.get("input")
    return ToolCallRequested(
        call_id=f"{state.request.build_id}/{turn}/{index}",
        turn=turn,
        index=index,
        tool=str(use["name"]),
        tool_use_id=str(use["id"]),
        input=given if isinstance(given, dict) else {},
        timeout_s=_TIMEOUT_S,
        purpose="judge",
    )


def _verdicts(state: BuildState, given: dict[int, CriterionVerdict]) -> CriteriaJudged:
    """Return the event that ends the round of judging. A criterion without a verdict counts as not met."""
    judging = state.judging or Judging()
    return CriteriaJudged(
        round=state.judgement.rounds + 1,
        verdicts=tuple(
            given.get(index, CriterionVerdict(index=index, met=False, evidence=_NO_VERDICT))
            for index in range(len(state.request.criteria))
        ),
        usage=judging.usage,
        cost_microusd=judging.cost,
    )
