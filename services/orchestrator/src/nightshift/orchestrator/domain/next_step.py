"""`next_step(state, now, policy, counted)` returns the next step of a build, or what the build waits for. Pure."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from nightshift.contracts.events.build import BuildAccepted, Phase
from nightshift.contracts.models import card_of
from nightshift.orchestrator.domain import (
    checks,
    context,
    conversation,
    cost_limits,
    customer_tools,
    funds,
    instructions,
    judging,
    model_choice,
    proof,
    questions,
    side_calls,
    verdicts,
)
from nightshift.orchestrator.domain.commands import (
    AnswerQuestion,
    AskBudget,
    Begin,
    Complete,
    Escalate,
    Fail,
    GiveApproval,
    GiveResult,
    SendBack,
    Sleep,
    StartCall,
    StartWaiting,
    Step,
    StopCall,
    Wake,
)
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.repetition import evidence
from nightshift.orchestrator.domain.state import BuildState, EscalationKind, RunMode, Text


@dataclass(frozen=True, slots=True)
class AwaitModel:
    """A model call is open. The process that started the call gets its answer. Any other process abandons the call."""


@dataclass(frozen=True, slots=True)
class CountPrompt:
    """Ask the provider for the number of tokens of the next request, because otherwise an estimate would decide.

    Then decide again.
    """


@dataclass(frozen=True, slots=True)
class AwaitFact:
    """Wait for a fact from another service: a tool call's result, a grant or a denial."""


@dataclass(frozen=True, slots=True)
class AwaitTime:
    """Wait until the time `until`, for example until a failed call may be made again."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Asleep:
    """The build sleeps. The budget service wakes it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """The build waits for a person or a customer's tool, so no process runs it.

    It runs again when a fact ends the wait, or when the deadline of an awaited answer has passed.
    """


@dataclass(frozen=True, slots=True)
class AwaitProvider:
    """The build waits for the provider. The build continues when its replica may call the provider."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The build has ended."""


Wait = AwaitModel | CountPrompt | AwaitFact | AwaitTime | AwaitProvider | Asleep | Waiting | Ended

#: Tokens that the bound does not include: the API's own text around tools, and the block with the remaining limits.
_SLACK = 1_000
#: Tokens that are always reserved for the loop's own messages. So a message that is added between the grant and the
#: call cannot make the grant too small.
_LOOP_MESSAGES = 1_500
#: The agent is warned when a tenth of its turns or tool calls is left.
_LAST_PART = 10


def next_step(state: BuildState, now: datetime, policy: Policy, counted: int | None = None) -> Step | Wait:
    """Return the next step, or what the build waits for.

    `counted` is the number of tokens of the next request, or None when the provider has not counted them. Checks cost
    no money. So after the agent has ended its work, the build can sleep only before the judge's calls.
    """
    if state.mode is RunMode.ENDED:
        return Ended()
    accepted = state.request
    if accepted.deadline is not None and accepted.deadline <= now and _at_work(state):
        return Fail("deadline", f"the deadline, {accepted.deadline.isoformat()}, has come")
    if state.mode is RunMode.SLEEPING:
        return Wake() if state.wake_reason is not None else Asleep()
    if state.mode is RunMode.WAITING:
        return _waiting(state, now)
    if state.phase is Phase.QUEUED:
        return Begin()
    if state.call is not None:
        return AwaitModel()
    outside = state.open_outside
    if any(call.result is None and call.call_id not in outside for call in state.tool_calls):
        return AwaitFact()
    if state.workspace.preparing is not None:
        return AwaitFact()
    if state.workspace.not_prepared is not None:
        return Fail("setup_failed", _setup_failure(state.workspace.not_prepared))
    if outside:
        return _overdue(state, now) or StartWaiting()
    if judging.open_calls(state):
        return AwaitFact()
    if state.tool_calls:
        return _after_checks(state, now, policy)
    return _think(state, accepted, now, policy, counted)


def _setup_failure(text: Text) -> str:
    return text if isinstance(text, str) else "the workspace could not be prepared; the log has the reason"


def _at_work(state: BuildState) -> bool:
    return state.mode is not RunMode.SLEEPING or state.wake_reason is not None


def _waiting(state: BuildState, now: datetime) -> Step | Wait:
    if state.call is not None:
        return StopCall()
    if state.waits_for == "paused":
        return Waiting()
    if state.waits_for == "provider":
        return AwaitProvider()
    if state.wake_reason is not None and (raised := questions.about_the_budget(state)) is not None:
        return AnswerQuestion(raised.question_id, None, None)
    return _overdue(state, now) or Waiting()


def _overdue(state: BuildState, now: datetime) -> AnswerQuestion | GiveApproval | GiveResult | None:
    """Return the command for an awaited answer whose deadline has passed: its default, a denial or an error.

    Returns None when no such deadline has passed.
    """
    for question in state.questions:
        if question.deadline is not None and question.deadline <= now:
            default = question.default if isinstance(question.default, str) else None
            return AnswerQuestion(question.question_id, None, default)
    for approval in state.approvals:
        if approval.deadline is not None and approval.deadline <= now:
            return GiveApproval(approval.call.call_id, approved=False)
    for call in state.customer_calls:
        if call.deadline is not None and call.deadline <= now:
            return customer_tools.overdue(call)
    return None


def _after_checks(state: BuildState, now: datetime, policy: Policy) -> Step | Wait:
    if state.conversation.waiting or state.workspace.replaced:
        # A person sent a message while the checks ran, or their sandbox is gone. The agent must read that first.
        return SendBack()
    failed, unproven = checks.failed(state.tool_calls), proof.missing(state)
    if not failed and unproven is None:
        return _call(state, now, policy, None) if verdicts.due(state) else _after_verdicts(state, policy)
    if state.counters.check_rounds + 1 < policy.check_tries:
        return SendBack()
    if failed or unproven is None:
        return Fail("checks_failed", checks.summary(state))
    return Fail("unproven", unproven)


def _after_verdicts(state: BuildState, policy: Policy) -> Step:
    unmet = verdicts.unmet(state)
    if not unmet:
        return Complete()
    if state.judgement.rounds_in_row < policy.judge_rounds:
        return SendBack()
    numbers = ", ".join(str(verdict.index + 1) for verdict in unmet)
    detail = f"after {state.judgement.rounds} rounds of judging, criteria {numbers} are not met:"
    return Escalate(
        "unproven", f"{detail}\n{verdicts.summary(state)}", _JUDGED, ("continue", "accept", "end")
    )


def _think(
    state: BuildState, accepted: BuildAccepted, now: datetime, policy: Policy, counted: int | None
) -> Step | Wait:
    if state.conversation.answered and state.conversation.turn >= accepted.turn_limit:
        return _limit("turn_limit", f"the limit of {accepted.turn_limit} turns is reached")
    if state.tool_calls_made >= accepted.tool_call_limit:
        return _limit("tool_call_limit", f"the limit of {accepted.tool_call_limit} tool calls is reached")
    stuck = evidence(state.counters.recent_calls)
    if stuck is not None and "repetition" in state.counters.steered:
        return _give_up(stuck)
    return _call(state, now, policy, counted)


def _call(state: BuildState, now: datetime, policy: Policy, counted: int | None) -> Step | Wait:
    """Return the step that leads to the next model call: the call, a request for money, a wait or an escalation."""
    if state.counters.retry_at is not None and state.counters.retry_at > now:
        return AwaitTime(state.counters.retry_at)
    if counted is not None:
        state = context.with_count(state, counted)
    role = side_calls.next_role(state, policy)
    if role != "judge" and context.guess_decides(state, policy):
        return CountPrompt()
    reserve = worst_case(state, policy)
    guessed = role == "builder" and context.is_guess(state, policy)
    if (over := cost_limits.over_build_limit(state, reserve)) is not None:
        return CountPrompt() if guessed else over
    if grant := funds.covering(state.funds, reserve, now):
        return StartCall(grant.lease_id, reserve, role, counted)
    if state.funds.refused_until is not None and state.funds.refused_until > now:
        if (over := cost_limits.over_day_limit(state, reserve)) is not None:
            return CountPrompt() if guessed else over
        return Sleep(_earliest(state.funds.refused_until, state.request.deadline))
    if state.funds.asked is not None:
        return AwaitFact()
    if guessed:
        return CountPrompt()
    if role == "judge":
        # When a build sleeps now, it may wake in another sandbox. Then the builder makes the next call.
        reserve = max(reserve, _builders_worst_case(state, policy))
    return AskBudget(reserve)


def _limit(kind: EscalationKind, detail: str) -> Escalate:
    return Escalate(kind, detail, _WARNED, ("continue", "finish", "end"))


def _give_up(stuck: str) -> Step:
    """Return the question to a person about an agent that is stuck again after the warning."""
    detail = f"the agent is stuck, again after a warning: {stuck}"
    return Escalate("repetition", detail, _STEERED, ("continue", "end"))


def worst_case(state: BuildState, policy: Policy) -> int:
    """Return the highest cost of the next model call in microdollars, including the loop's own new messages."""
    role = side_calls.next_role(state, policy)
    if role != "builder":
        return side_calls.worst_case(state, policy, role)
    return _builders_worst_case(state, policy)


def _builders_worst_case(state: BuildState, policy: Policy) -> int:
    own = sum(conversation.tokens_of(message) for _, message in loop_messages(state))
    tokens = context.size(state, policy) + _SLACK + max(own, _LOOP_MESSAGES)
    tokens = min(tokens, card_of(state.request.model).context)  # a longer prompt is refused and costs nothing
    limit = model_choice.output_limit(state.request, policy)
    return funds.worst_case(state.request.model, tokens, limit)


def loop_messages(state: BuildState) -> tuple[tuple[str, str], ...]:
    """Return the loop's own messages for the next call, as pairs of a reason and a message."""
    accepted = state.request
    messages: list[tuple[str, str]] = []
    if state.workspace.news:
        messages.append(("sandbox_restored", " ".join(state.workspace.news)))
    if (told := instructions.message(state.workspace)) is not None:
        messages.append(("instructions", told))
    if funds.winding_down(state.funds):
        messages.append(("budget", _WIND_DOWN))
    if (stuck := evidence(state.counters.recent_calls)) is not None:
        messages.append(("repetition", _REPETITION.format(evidence=stuck)))
    calls_left = accepted.tool_call_limit - state.tool_calls_made
    turns_left = accepted.turn_limit - state.conversation.turn
    few = (
        calls_left * _LAST_PART <= accepted.tool_call_limit or turns_left * _LAST_PART <= accepted.turn_limit
    )
    if few and "turns" not in state.counters.steered:
        messages.append(("turns", f"Only {turns_left} turns and {calls_left} tool calls are left. {_FINISH}"))
    return tuple(messages)


_REPETITION = (
    "You are stuck: {evidence}. Find out why and try something else; if it goes on, the build stops and asks a person"
    " what to do. To wait for something that takes long, run it in the background and read its output."
)
#: What was tried before an escalation. The person who decides reads this.
_STEERED = "The agent was told what it repeats, and to try something else."
_JUDGED = "The agent was told after each round what the judge found missing."
_WARNED = "The agent was told to finish when a tenth of its turns or tool calls was left."
_FINISH = "Finish what matters most, leave the project in a working state, and end."
_WIND_DOWN = (
    "Nine tenths of today's money are spent. Bring what you are doing to a good state soon: when the money is gone"
    " you sleep until it comes back."
)


def _earliest(refresh: datetime, deadline: datetime | None) -> datetime:
    return refresh if deadline is None else min(refresh, deadline)


def due(state: BuildState, step: Wait, now: datetime, longest: timedelta) -> datetime:
    """Return the time at which a waiting run of a build calls `next_step` again although no notification has come.

    That is the time in an AwaitTime, and `longest` after `now` for any other wait. An earlier deadline of the build
    replaces it.
    """
    until = now + longest
    if isinstance(step, AwaitTime):
        until = step.until
    deadline = state.request.deadline
    return until if deadline is None else min(until, deadline)
