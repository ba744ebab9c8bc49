"""Counts what goes wrong, and computes how long to wait before a model call is made again."""

from datetime import timedelta
from uuid import UUID

from nightshift.contracts.events.build import ModelCallFailed
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.eventlog.backoff import Backoff
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.provider_waits import REFUSED_KEY
from nightshift.orchestrator.domain.repetition import is_progress, remember
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import FailureCounters, ToolCall

#: The stop reasons of a complete answer. Answers with another reason are counted, so that they cannot repeat for ever.
WHOLE = frozenset({"end_turn", "stop_sequence", "tool_use"})
#: The reasons of messages that end a round of checks.
_ROUNDS = frozenset({"check_failed", "unproven"})
#: The reasons for which the loop sends a message to the agent only once.
_ONCE = frozenset({"repetition", "turns", "no_tool_call"})


def answered(counters: FailureCounters, stop_reason: str) -> FailureCounters:
    """Set the counts of the provider's failures to 0, because the provider has answered.

    An answer that stopped early, for example at the token limit, adds one to `cuts`. A complete answer sets `cuts` to
    0.
    """
    cuts = 0 if stop_reason in WHOLE else counters.cuts + 1
    return replace(counters, failures=0, paid_failures=0, retry_at=None, provider_sleeps=0, cuts=cuts)


def call_failed(counters: FailureCounters, data: ModelCallFailed) -> FailureCounters:
    """Count a failed call.

    An abandoned call counts only as a call that cost money, because the provider did not fail. Two kinds do not count:
    a call that a person stopped, and a call for which the provider refused the key.
    """
    if data.kind == "cancelled" or data.kind in REFUSED_KEY:
        return replace(counters, retry_at=None)
    return replace(
        counters,
        failures=counters.failures + (data.kind != "abandoned"),
        paid_failures=counters.paid_failures + (data.cost_microusd > 0),
        retry_at=data.retry_at,
    )


def steered(counters: FailureCounters, reason: str) -> FailureCounters:
    if reason in _ROUNDS:
        return replace(counters, check_rounds=counters.check_rounds + 1)
    if reason not in _ONCE:
        return counters
    counters = replace(counters, steered=counters.steered | {reason})
    if reason != "repetition":
        return counters
    # Count from zero again: the agent must be able to react to the warning before the same calls count against it.
    return replace(counters, recent_calls=(), warned_calls=counters.recent_calls)


def tool_answered(counters: FailureCounters, call: ToolCall, result: ToolCallCompleted) -> FailureCounters:
    """Add a tool call of the agent and its result to the recent calls.

    When the call is progress, the agent may be warned about repetition once more.
    """
    recent = remember(counters.recent_calls, call, result)
    if recent is counters.recent_calls:
        return counters
    if is_progress(recent[-1], (*counters.warned_calls, *counters.recent_calls)):
        counters = replace(counters, steered=counters.steered - {"repetition"})
    return replace(counters, recent_calls=recent)


def slept(counters: FailureCounters, reason: str) -> FailureCounters:
    return replace(counters, provider_sleeps=counters.provider_sleeps + (reason == "provider"))


def backoff(failures: int, cause: UUID, policy: Policy, *, retry_after_s: float | None) -> timedelta:
    """Return the wait before the next model call, after `failures` failures in a row.

    The wait grows exponentially, and is at least `retry_after_s`, the wait that the provider asked for, if that is
    plausible. The jitter comes from `cause`, the id of the failed call. So the same decision, made again, gives the
    same wait.
    """
    jitter = (cause.int % 1_000_003) / 1_000_003
    wait = Backoff(policy.first_backoff_s, policy.longest_backoff_s).delay(failures, jitter=jitter)
    return timedelta(seconds=max(wait, _plausible(retry_after_s, policy)))


def _plausible(retry_after_s: float | None, policy: Policy) -> float:
    """Return the seconds that the provider asked for, or 0 when they are not plausible.

    A wait is not plausible when it is not a number, is negative, or is longer than `longest_retry_after_s`.
    """
    if retry_after_s is None or not 0 <= retry_after_s <= policy.longest_retry_after_s:
        return 0.0
    return retry_after_s
