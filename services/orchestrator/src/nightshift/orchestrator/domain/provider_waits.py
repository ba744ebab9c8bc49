"""Decides when a build waits because the model provider refuses the key, and when the build continues.

No build is at fault when the provider refuses the key. So nothing is counted against a build, and no build fails for
it.
"""

from nightshift.contracts.events.build import BuildResumed, BuildWaiting
from nightshift.contracts.model import Event
from nightshift.orchestrator.domain.commands import CallFailed
from nightshift.orchestrator.domain.state import BuildState, RunMode

Events = tuple[Event, ...]

#: The kinds of failure with which the provider refuses a key. Every build that uses the key would get the same answer.
REFUSED_KEY = frozenset({"auth", "credit", "usage_limit"})
#: The kinds of failure with which the provider refuses a call because there are too many calls.
SLOW_DOWN = frozenset({"rate_limited", "overloaded"})
#: The HTTP status when the key lacks a permission, such as for calls of one model.
_FORBIDDEN = 403


def is_for_one_model(failure: CallFailed) -> bool:
    """Return whether the provider has refused the key for one model only, so that it may still call other models."""
    return failure.kind == "auth" and failure.status == _FORBIDDEN


def wait(state: BuildState, detail: str) -> Events:
    """Return the event with which the build begins to wait for the provider. `detail` names the key and the reason."""
    return (BuildWaiting(reason="provider", detail=detail, until=state.request.deadline),)


def resume(state: BuildState) -> Events:
    """Return the event that ends a wait for the provider, or none when the build does not wait for the provider."""
    if state.mode is not RunMode.WAITING or state.waits_for != "provider":
        return ()
    return (BuildResumed(reason="provider"),)
