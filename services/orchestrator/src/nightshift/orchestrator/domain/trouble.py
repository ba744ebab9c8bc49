"""What is counted of things that go wrong, and how long to wait before a model call is tried again."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from nightshift.contracts.events.build import ModelCallFailed
from nightshift.contracts.events.sandbox import ToolCallCompleted
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.repetition import is_progress, remember
from nightshift.orchestrator.domain.state import Trouble

#: The stop reasons of an answer that is whole. The others, known or not, are counted: they must not go on for ever.
WHOLE = frozenset({"end_turn", "stop_sequence", "tool_use"})
#: Reasons for which the loop speaks up on its own, once each.
_ONCE = frozenset({"repetition", "turns", "no_tool_call"})


def answered(trouble: Trouble, stop_reason: str) -> Trouble:
    """The provider answers again."""
    cuts = 0 if stop_reason in WHOLE else trouble.cuts + 1
    return replace(trouble, failures=0, paid_failures=0, retry_at=None, provider_sleeps=0, cuts=cuts)


def call_failed(trouble: Trouble, data: ModelCallFailed) -> Trouble:
    """A call whose owner died is no failure of the provider, but it costs money like one."""
    return replace(
        trouble,
        failures=trouble.failures + (data.kind != "abandoned"),
        paid_failures=trouble.paid_failures + (data.cost_microusd > 0),
        retry_at=data.retry_at,
    )


def steered(trouble: Trouble, reason: str) -> Trouble:
    if reason == "check_failed":
        return replace(trouble, check_rounds=trouble.check_rounds + 1)
    if reason not in _ONCE:
        return trouble
    trouble = replace(trouble, steered=trouble.steered | {reason})
    if reason != "repetition":
        return trouble
    # A new window: the warning must have a chance before the same calls count against the agent.
    return replace(trouble, recent_calls=(), warned_calls=trouble.recent_calls)


def tool_answered(trouble: Trouble, call: str, result: ToolCallCompleted) -> Trouble:
    """A result of the agent's call. Progress takes back the warning about repetition."""
    recent = remember(trouble.recent_calls, call, result)
    if recent is trouble.recent_calls:
        return trouble
    if is_progress(recent[-1], (*trouble.warned_calls, *trouble.recent_calls)):
        trouble = replace(trouble, steered=trouble.steered - {"repetition"})
    return replace(trouble, recent_calls=recent)


def slept(trouble: Trouble, reason: str) -> Trouble:
    return replace(trouble, provider_sleeps=trouble.provider_sleeps + (reason == "provider"))


def backoff(failures: int, cause: UUID, policy: Policy, *, retry_after_s: float | None) -> timedelta:
    """The wait after the n-th failure in a row: exponential, and at least what the provider asked for.

    Half of it is jitter, drawn from the id of the failed call so that a decision made again is the same decision.
    """
    ceiling = min(policy.first_backoff_s * 2.0 ** min(failures - 1, 30), policy.longest_backoff_s)
    share = (cause.int % 1_000_003) / 1_000_003
    wait = ceiling * (0.5 + 0.5 * share)
    return timedelta(seconds=max(wait, _plausible(retry_after_s, policy)))


def _plausible(retry_after_s: float | None, policy: Policy) -> float:
    """Seconds; 0 for a wait that no provider means: not a number, negative, or longer than `longest_retry_after_s`."""
    if retry_after_s is None or not 0 <= retry_after_s <= policy.longest_retry_after_s:
        return 0.0
    return retry_after_s
