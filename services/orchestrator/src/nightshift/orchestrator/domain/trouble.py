"""What is counted of things that go wrong, and how long to wait before a model call is tried again."""

from dataclasses import replace
from datetime import timedelta
from uuid import UUID

from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import Trouble

#: The stop reasons of an answer that is whole. The others, known or not, are counted: they must not go on for ever.
WHOLE = frozenset({"end_turn", "stop_sequence", "tool_use"})
#: Reasons for which the loop speaks up on its own, once each.
_ONCE = frozenset({"repetition", "turns", "no_tool_call"})


def answered(trouble: Trouble, stop_reason: str) -> Trouble:
    """The provider answers again."""
    cuts = 0 if stop_reason in WHOLE else trouble.cuts + 1
    return replace(trouble, failures=0, retry_at=None, provider_sleeps=0, cuts=cuts)


def steered(trouble: Trouble, reason: str) -> Trouble:
    if reason == "check_failed":
        return replace(trouble, check_rounds=trouble.check_rounds + 1)
    if reason not in _ONCE:
        return trouble
    # A new window: what was said has to have a chance before the same calls count against the agent.
    recent = () if reason == "repetition" else trouble.recent_calls
    return replace(trouble, steered=trouble.steered | {reason}, recent_calls=recent)


def slept(trouble: Trouble, reason: str) -> Trouble:
    return replace(trouble, provider_sleeps=trouble.provider_sleeps + (reason == "provider"))


def backoff(failures: int, cause: UUID, policy: Policy, *, retry_after_s: float | None) -> timedelta:
    """How long to wait after the n-th failure in a row: exponential, at least what the provider asked for.

    Half of it is jitter, drawn from the id of the failed call so that a decision made again is the same decision.
    """
    ceiling = min(policy.first_backoff_s * 2.0 ** min(failures - 1, 30), policy.longest_backoff_s)
    share = (cause.int % 1_000_003) / 1_000_003
    wait = ceiling * (0.5 + 0.5 * share)
    return timedelta(seconds=max(wait, retry_after_s or 0.0))
