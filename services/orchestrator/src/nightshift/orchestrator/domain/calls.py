"""What an attempt of a model call leads to: tool calls or the checks, another try or a sleep, or an end."""

from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from nightshift.contracts import prices
from nightshift.contracts.events.build import (
    AgentSteered,
    BuildFailed,
    BuildPhaseChanged,
    CheckpointSaved,
    ModelCallFailed,
    ModelCallResponded,
    Phase,
    SleepRequested,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.model import Event
from nightshift.contracts.tools import Bash, Narrate
from nightshift.orchestrator.domain import checks
from nightshift.orchestrator.domain.commands import AbandonCall, Answer, CallFailed, FailReason
from nightshift.orchestrator.domain.conversation import MAX_TOKENS
from nightshift.orchestrator.domain.evolve import foresee
from nightshift.orchestrator.domain.failure_counters import WHOLE, backoff
from nightshift.orchestrator.domain.phases import may_move
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import BuildState, Call

Events = tuple[Event, ...]

#: The provider refuses the key or has no credit: the build waits until a person has changed that.
_REFUSED_KEY = "auth"
_RETRIED = frozenset(
    {"rate_limited", "overloaded", "server", "connection", "stream_cut", "malformed", _REFUSED_KEY}
)
#: Phases an agent may tell that it is in. The checks are the orchestrator's own.
_TOLD = frozenset({Phase.SCAFFOLD, Phase.CODE, Phase.DEPS})
_TIMEOUT_S = 120
#: Beyond a command's own time, so that the gateway, which knows more, ends it first.
_GRACE_S = 15

_CONTINUE = "Your answer was cut off at its output limit. Go on, in smaller steps."
_STOPPED = (
    "Your answer stopped before its end ({reason}). Go on; an answer without a tool call ends the build."
)
_NOTHING = "nothing was built: the model ended its work twice without a single tool call"
_USE_TOOLS = (
    "Nothing was built yet. Use the tools to do the work; an answer without a tool call ends the build."
)


def answered(state: BuildState, answer: Answer, policy: Policy) -> Events:
    """The answer as it came, and what follows from it. Empty when no call is in flight that it could answer."""
    call = state.call
    if call is None:
        return ()
    responded = _responded(state, call, answer)
    after = foresee(state, (responded,))
    match answer.stop_reason:
        case "refusal":
            return (responded, *fail(after, "refusal", "the model refused to go on"))
        case "model_context_window_exceeded":
            return (responded, *fail(after, "model_error", "the conversation no longer fits into the model"))
        case _ if answer.stop_reason == MAX_TOKENS:
            if after.counters.cuts > policy.max_cuts:
                detail = f"{after.counters.cuts} answers in a row ended at {policy.max_output_tokens} tokens"
                return (responded, *fail(after, "max_tokens", detail))
            return (responded, AgentSteered(reason="max_tokens", message=_CONTINUE))
    uses = [block for block in answer.content if block.get("type") == "tool_use"]
    if uses:
        return (responded, *_act(after, uses))
    if answer.stop_reason not in WHOLE:
        return (responded, *_stopped(after, answer.stop_reason, policy))
    return (responded, *_done(after))


def failed(state: BuildState, failure: CallFailed, now: datetime, policy: Policy) -> Events:
    """An attempt failed: the build tries again soon, or after a sleep when the wait is long, or ends."""
    call = state.call
    if call is None:
        return ()
    if failure.kind not in _RETRIED:
        event = _failed(state, call, failure, retry_at=None)
        return (event, *fail(foresee(state, (event,)), "model_error", _words(failure)))
    failures = state.counters.failures + 1
    wait = backoff(failures, call.event_id, policy, retry_after_s=failure.retry_after_s)
    if failures >= policy.attempts or failure.kind == _REFUSED_KEY:
        wait = max(wait, timedelta(seconds=policy.provider_sleep_s))
    return _retried(state, call, failure, wait=wait, now=now, policy=policy)


def abandoned(state: BuildState, command: AbandonCall, now: datetime, policy: Policy) -> Events:
    """The call's owner died. It may have been billed: it counts at its worst case, and is made again at once."""
    if state.call is None:
        return ()
    detail = "the process that made this call ended before the answer was in the log"
    failure = CallFailed("abandoned", detail, usage=command.seen, maybe_billed=True)
    return _retried(state, state.call, failure, wait=timedelta(), now=now, policy=policy)


def _retried(
    state: BuildState, call: Call, failure: CallFailed, *, wait: timedelta, now: datetime, policy: Policy
) -> Events:
    """After `policy.attempts` calls in a row that cost money and brought no answer, each further one waits long."""
    paid = state.counters.paid_failures + (_cost(state, call, failure) > 0)
    if paid >= policy.attempts:
        wait = max(wait, timedelta(seconds=policy.provider_sleep_s))
    event = _failed(state, call, failure, retry_at=now + wait)
    if wait <= timedelta(seconds=policy.longest_wait_s) and paid < policy.attempts:
        return (event,)
    after = foresee(state, (event,))
    if state.counters.provider_sleeps >= policy.provider_sleeps and failure.kind != _REFUSED_KEY:
        detail = f"given up after {policy.provider_sleeps} sleeps: {_words(failure)}"
        return (event, *fail(after, "model_error", detail))
    sleep = SleepRequested(reason="provider", account_id=state.request.account_id, wake_at=now + wait)
    return (event, sleep)


def stopped(state: BuildState, seen: Usage | None, detail: str) -> Events:
    """The end of the call in flight, if there is one, at the cost of `seen`. None: at its worst case."""
    if state.call is None:
        return ()
    failure = CallFailed("cancelled", detail, usage=seen, maybe_billed=True)
    return (_failed(state, state.call, failure, retry_at=None),)


def checkpoint(state: BuildState) -> Events:
    """The checkpoint of the last complete turn, where it is not saved yet."""
    conversation = state.conversation
    turn = conversation.turn if conversation.answered else conversation.turn - 1
    return (CheckpointSaved(turn=turn),) if turn > conversation.checkpoint else ()


def fail(state: BuildState, reason: FailReason, detail: str) -> Events:
    """The end of a build that is not ready."""
    return (
        BuildPhaseChanged(from_phase=state.phase, to_phase=Phase.FAILED),
        BuildFailed(
            reason=reason, detail=detail, cost_microusd=state.funds.spent, turns=state.conversation.turn
        ),
    )


def _responded(state: BuildState, call: Call, answer: Answer) -> ModelCallResponded:
    return ModelCallResponded(
        turn=call.turn,
        attempt=call.attempt,
        model=answer.model,
        message_id=answer.message_id,
        content=answer.content,
        stop_reason=answer.stop_reason,
        usage=answer.usage,
        price_version=prices.NEWEST,
        cost_microusd=prices.cost(state.request.model, answer.usage),
        latency_ms=answer.latency_ms,
        first_token_ms=answer.first_token_ms,
    )


def _failed(
    state: BuildState, call: Call, failure: CallFailed, *, retry_at: datetime | None
) -> ModelCallFailed:
    return ModelCallFailed(
        turn=call.turn,
        attempt=call.attempt,
        kind=failure.kind,
        status=failure.status,
        detail=failure.detail,
        retry_at=retry_at,
        usage=failure.usage or Usage(),
        price_version=prices.NEWEST,
        cost_microusd=_cost(state, call, failure),
    )


def _cost(state: BuildState, call: Call, failure: CallFailed) -> int:
    """Microdollars: of the usage that was stated, else the worst case, and 0 for a call that was refused."""
    if failure.usage is not None:
        return prices.cost(state.request.model, failure.usage)
    return call.reserve_microusd if failure.maybe_billed else 0


def _act(state: BuildState, uses: list[dict[str, Any]]) -> Events:
    requested = tuple(_request(state, index, use) for index, use in enumerate(uses))
    return (*_told_phases(state, uses), *requested)


def _stopped(state: BuildState, reason: str, policy: Policy) -> Events:
    """Paused, or ended for a reason that this version does not know: half a work is not taken for a whole one."""
    if state.counters.cuts > policy.max_cuts:
        detail = f"{state.counters.cuts} answers in a row stopped before their end: the last for {reason!r}"
        return fail(state, "model_error", detail)
    return (AgentSteered(reason="max_tokens", message=_STOPPED.format(reason=reason)),)


def _done(state: BuildState) -> Events:
    if state.conversation.waiting:
        return ()  # something was said while the model answered: it is heard before the checks
    if not state.tool_calls_made:
        if "no_tool_call" not in state.counters.steered:
            return (AgentSteered(reason="no_tool_call", message=_USE_TOOLS),)
        if not state.request.checks:  # those of the request can tell that there was nothing to do
            return fail(state, "checks_failed", _NOTHING)
    return (
        BuildPhaseChanged(from_phase=state.phase, to_phase=Phase.CHECKS),
        *checks.check_calls(state),
    )


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
        timeout_s=_timeout(str(use["name"]), given),
    )


def _timeout(tool: str, given: Any) -> int:
    if tool != Bash.tool:
        return _TIMEOUT_S
    try:
        asked = Bash.model_validate(given).timeout_s  # read as the gateway reads it
    except ValidationError:
        asked = None
    return _TIMEOUT_S if asked is None else asked + _GRACE_S


def _told_phases(state: BuildState, uses: list[dict[str, Any]]) -> tuple[BuildPhaseChanged, ...]:
    """The agent says which phase it is in. What the table does not have is only told, not made."""
    phase = state.phase
    moves: list[BuildPhaseChanged] = []
    for use in uses:
        given = use.get("input")
        told = given.get("phase") if use.get("name") == Narrate.tool and isinstance(given, dict) else None
        if told in _TOLD and may_move(phase, Phase(told)):
            moves.append(BuildPhaseChanged(from_phase=phase, to_phase=Phase(told)))
            phase = Phase(told)
    return tuple(moves)


def _words(failure: CallFailed) -> str:
    status = f" (status {failure.status})" if failure.status is not None else ""
    return f"{failure.kind}{status}: {failure.detail}"
