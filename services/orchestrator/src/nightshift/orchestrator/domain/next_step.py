"""`next_step(state, now)`: what a build does now, or what it waits for. The second pure half of the loop."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from nightshift.contracts.events.build import BuildAccepted
from nightshift.orchestrator.domain import checks, conversation, funds, prompt
from nightshift.orchestrator.domain.commands import (
    AskBudget,
    Complete,
    Fail,
    SendBack,
    Sleep,
    StartCall,
    Step,
    Wake,
)
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.repetition import TIMES, repeats
from nightshift.orchestrator.domain.state import BuildState, RunMode


@dataclass(frozen=True, slots=True)
class AwaitModel:
    """A call is in flight. Whoever started it has its answer; if nobody has, it is abandoned."""


@dataclass(frozen=True, slots=True)
class AwaitFact:
    """Somebody else's fact: a tool's result, a grant or a denial."""


@dataclass(frozen=True, slots=True)
class AwaitTime:
    """Nothing but time has to pass."""

    until: datetime


@dataclass(frozen=True, slots=True)
class Asleep:
    """Nothing to do and nothing to keep: the budget service wakes it."""


@dataclass(frozen=True, slots=True)
class Ended:
    """Nothing to do ever again."""


Wait = AwaitModel | AwaitFact | AwaitTime | Asleep | Ended

#: Tokens for what the estimate does not see: the API's own words around tools, and what is told of money and turns.
_SLACK = 1_000
#: Always counted for the loop's own messages. A message that comes up between the grant and the call must not make the
#: grant too small: at the day's last money that would be a sleep instead of a turn.
_LOOP_WORDS = 1_500
#: Of turns and tool calls, the part at whose start the agent is told that they run out.
_LAST_PART = 10


def next_step(state: BuildState, now: datetime, policy: Policy) -> Step | Wait:
    """What to do. Checks need no model and so no money: a finished build is never put to sleep."""
    if state.mode is RunMode.ENDED:
        return Ended()
    accepted = state.request
    if accepted.deadline is not None and accepted.deadline <= now and _at_work(state):
        return Fail("deadline", f"the deadline, {accepted.deadline.isoformat()}, has come")
    if state.mode is RunMode.SLEEPING:
        return Wake() if state.wake_reason is not None else Asleep()
    if state.call is not None:
        return AwaitModel()
    if any(call.result is None for call in state.tool_calls):
        return AwaitFact()
    if state.tool_calls:
        return _judge(state, policy)
    return _think(state, accepted, now, policy)


def _at_work(state: BuildState) -> bool:
    return state.mode is RunMode.RUNNING or state.wake_reason is not None


def _judge(state: BuildState, policy: Policy) -> Step:
    if state.conversation.waiting:
        return SendBack()  # a person said something while the checks ran: it is heard before the build ends
    if not checks.failed(state.tool_calls):
        return Complete()
    if state.counters.check_rounds + 1 >= policy.check_tries:
        return Fail("checks_failed", checks.summary(state))
    return SendBack()


def _think(state: BuildState, accepted: BuildAccepted, now: datetime, policy: Policy) -> Step | Wait:
    if state.conversation.answered and state.conversation.turn >= accepted.turn_limit:
        return Fail("turn_limit", f"the limit of {accepted.turn_limit} turns is reached")
    if state.tool_calls_made >= accepted.tool_call_limit:
        return Fail("tool_call_limit", f"the limit of {accepted.tool_call_limit} tool calls is reached")
    if "repetition" in state.counters.steered and repeats(state.counters.recent_calls):
        return Fail("repetition", f"the same call with the same result {TIMES} times, again after a warning")
    if state.counters.retry_at is not None and state.counters.retry_at > now:
        return AwaitTime(state.counters.retry_at)
    reserve = worst_case(state, policy)
    if grant := funds.covering(state.funds, reserve, now):
        return StartCall(grant.lease_id, reserve)
    if state.funds.refused_until is not None and state.funds.refused_until > now:
        return Sleep(_earliest(state.funds.refused_until, accepted.deadline))
    if state.funds.asked is not None:
        return AwaitFact()
    return AskBudget(reserve)


def worst_case(state: BuildState, policy: Policy) -> int:
    """Microdollars that the next call costs at most, with all that is said with it."""
    tokens = state.conversation.tokens
    if tokens is None:
        tokens = prompt.size_bound(state, policy)
    said = sum(conversation.tokens_of(message) for _, message in loop_messages(state))
    tokens += _SLACK + max(said, _LOOP_WORDS)
    return funds.worst_case(state.request.model, tokens, policy.max_output_tokens)


def loop_messages(state: BuildState) -> tuple[tuple[str, str], ...]:
    """What the loop itself has to say with the next call: (reason, message)."""
    accepted = state.request
    messages: list[tuple[str, str]] = []
    if state.workspace.news:
        messages.append(("sandbox_restored", " ".join(state.workspace.news)))
    if funds.winding_down(state.funds):
        messages.append(("budget", _WIND_DOWN))
    if repeats(state.counters.recent_calls):
        messages.append(("repetition", _REPETITION))
    calls_left = accepted.tool_call_limit - state.tool_calls_made
    turns_left = accepted.turn_limit - state.conversation.turn
    few = (
        calls_left * _LAST_PART <= accepted.tool_call_limit or turns_left * _LAST_PART <= accepted.turn_limit
    )
    if few and "turns" not in state.counters.steered:
        messages.append(("turns", f"Only {turns_left} turns and {calls_left} tool calls are left. {_FINISH}"))
    return tuple(messages)


_REPETITION = (
    f"You have made the same call {TIMES} times in your last calls, and it returned the same each time. Look at what it"
    " returned and try something else; if it goes on the build is ended."
)
_FINISH = "Finish what matters most, leave the project in a working state, and end."
_WIND_DOWN = (
    "Nine tenths of today's money are spent. Bring what you are doing to a good state soon: when the money is gone"
    " you sleep until it comes back."
)


def _earliest(refresh: datetime, deadline: datetime | None) -> datetime:
    return refresh if deadline is None else min(refresh, deadline)


def due(state: BuildState, step: Wait, now: datetime, longest: timedelta) -> datetime:
    """When a waiting build is looked at again though nothing was heard: at its time, its deadline, after `longest`."""
    until = now + longest
    if isinstance(step, AwaitTime):
        until = step.until
    deadline = state.request.deadline
    return until if deadline is None else min(until, deadline)
