"""Decides what follows when a model call ends: tool calls, checks, another attempt, a sleep, or the end of the
build.
"""

from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from nightshift.contracts import prices
from nightshift.contracts.events.build import (
    AgentSteered,
    ApprovalRequested,
    BuildFailed,
    BuildPhaseChanged,
    CheckpointSaved,
    ContextCondensed,
    ModelCallFailed,
    ModelCallResponded,
    Phase,
    QuestionAsked,
    SleepRequested,
    ToolCallAnswered,
    ToolCallRequested,
    Usage,
)
from nightshift.contracts.model import Event
from nightshift.contracts.tools import Bash, Narrate
from nightshift.orchestrator.domain import (
    approvals,
    checks,
    condenser,
    context,
    customer_tools,
    instructions,
    provider_waits,
    questions,
    side_calls,
)
from nightshift.orchestrator.domain.commands import AbandonCall, Answer, CallFailed, FailReason
from nightshift.orchestrator.domain.conversation import MAX_TOKENS, NO_ROOM
from nightshift.orchestrator.domain.evolve import evolve_all
from nightshift.orchestrator.domain.failure_counters import WHOLE, backoff
from nightshift.orchestrator.domain.model_choice import output_limit
from nightshift.orchestrator.domain.phases import may_move
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.provider_waits import REFUSED_KEY, SLOW_DOWN
from nightshift.orchestrator.domain.repair import repair, used_ids
from nightshift.orchestrator.domain.state import BuildState, OpenCall

Events = tuple[Event, ...]

_RETRIED = frozenset({*SLOW_DOWN, "server", "connection", "stream_cut", "malformed"})
#: The phases that the agent may set. Only the orchestrator starts the checks.
_AGENT_PHASES = frozenset({Phase.SCAFFOLD, Phase.CODE, Phase.DEPS})
_TIMEOUT_S = 120
#: Seconds in addition to a command's own limit, so that the sandbox gateway ends the command before the call times out.
_GRACE_S = 15

#: The most characters of a model's refusal in the event that ends a build.
_DETAIL = 2_000

_CONTINUE = "Your answer was cut off at its output limit. Go on, in smaller steps."
_STOPPED = (
    "Your answer stopped before its end ({reason}). Go on; an answer without a tool call ends the build."
)
_NOTHING = "nothing was built: the model ended its work twice without a single tool call"
_USE_TOOLS = (
    "Nothing was built yet. Use the tools to do the work; an answer without a tool call ends the build."
)


def answered(state: BuildState, answer: Answer, policy: Policy, now: datetime) -> Events:
    """Return the event that records the model's answer, and the events that follow from the answer.

    Returns none when no model call is open.
    """
    call = state.call
    if call is None:
        return ()
    if call.role != "builder":
        return _answered_another_role(state, call, answer, policy, now)
    content, repaired = repair(answer.content, answer.invalid_inputs, used_ids(state.conversation.entries))
    responded = _responded(call, answer, content, repaired)
    after = evolve_all(state, (responded,))
    match answer.stop_reason:
        case "refusal":
            return (responded, *fail(after, "refusal", _refusal(answer)))
        case _ if answer.stop_reason in (MAX_TOKENS, NO_ROOM):
            if after.counters.cuts > policy.max_cuts:
                limit = output_limit(state.request, policy)
                detail = f"{after.counters.cuts} answers in a row ended at {limit} tokens"
                return (responded, *fail(after, "max_tokens", detail))
            return (responded, AgentSteered(reason="max_tokens", message=_CONTINUE))
    uses = [block for block in content if block.get("type") == "tool_use"]
    if uses:
        return (responded, *_act(after, uses, now))
    if answer.stop_reason not in WHOLE:
        return (responded, *_stopped(after, answer.stop_reason, policy))
    return (responded, *_done(after))


def _answered_another_role(
    state: BuildState, call: OpenCall, answer: Answer, policy: Policy, now: datetime
) -> Events:
    used = used_ids(side_calls.entries(state, call.role))
    content, repaired = repair(answer.content, answer.invalid_inputs, used)
    responded = _responded(call, answer, content, repaired)
    after = evolve_all(state, (responded,))
    return (responded, *side_calls.following(after, responded, policy, now))


def failed(state: BuildState, failure: CallFailed, now: datetime, policy: Policy) -> Events:
    """Return the events after a model call that failed. Returns none when no call is open.

    The build tries again soon, sleeps when the wait is long, waits when the provider refuses the key, or ends.
    """
    call = state.call
    if call is None:
        return ()
    if failure.kind in REFUSED_KEY:
        event = _failed(call, failure, retry_at=None)
        return (event, *provider_waits.wait(evolve_all(state, (event,)), _describe(failure)))
    if failure.kind not in _RETRIED and call.role == "condenser":
        event = _failed(call, failure, retry_at=now)
        return (event, condenser.listed(evolve_all(state, (event,)), policy))
    if failure.kind == "thinking" and call.role == "builder" and context.has_thinking(state):
        return (_failed(call, failure, retry_at=now), ContextCondensed(through_turn=0, written_by="loop"))
    if failure.kind == "too_long" and call.role == "builder":
        event = _failed(call, failure, retry_at=now)
        after = evolve_all(state, (event,))
        if context.is_over(after, policy):
            return (event,)
        detail = f"the request is too long for the model, and nothing is left to condense: {failure.detail}"
        return (event, *fail(after, "model_error", detail))
    if failure.kind not in _RETRIED:
        event = _failed(call, failure, retry_at=None)
        return (event, *fail(evolve_all(state, (event,)), "model_error", _describe(failure)))
    failures = state.counters.failures + 1
    wait = backoff(failures, call.event_id, policy, retry_after_s=failure.retry_after_s)
    if failures >= policy.attempts:
        wait = max(wait, timedelta(seconds=policy.provider_sleep_s))
    return _retried(state, call, failure, wait=wait, now=now, policy=policy)


def abandoned(state: BuildState, command: AbandonCall, now: datetime, policy: Policy) -> Events:
    """Return the events that end a model call whose process died. The call may then be made again at once.

    The ended call costs its reserved worst case, unless `command.seen` states its usage. Returns none when no call is
    open.
    """
    if state.call is None:
        return ()
    detail = "the process that made this call ended before the answer was in the log"
    failure = CallFailed("abandoned", detail, usage=command.seen, maybe_billed=True)
    return _retried(state, state.call, failure, wait=timedelta(), now=now, policy=policy)


def _retried(
    state: BuildState, call: OpenCall, failure: CallFailed, *, wait: timedelta, now: datetime, policy: Policy
) -> Events:
    """Return the events that end a failed model call, which is made again after `wait`.

    After `policy.attempts` calls in a row that cost money and had no answer, the build sleeps before each new call.
    """
    paid = state.counters.paid_failures + (_cost(call, failure) > 0)
    if paid >= policy.attempts:
        wait = max(wait, timedelta(seconds=policy.provider_sleep_s))
    event = _failed(call, failure, retry_at=now + wait)
    if wait <= timedelta(seconds=policy.longest_wait_s) and paid < policy.attempts:
        return (event,)
    after = evolve_all(state, (event,))
    free = paid < policy.attempts  # an outage that costs only time does not end a build
    if state.counters.provider_sleeps >= policy.provider_sleeps and not free:
        detail = f"given up after {policy.provider_sleeps} sleeps: {_describe(failure)}"
        return (event, *fail(after, "model_error", detail))
    sleep = SleepRequested(reason="provider", account_id=state.request.account_id, wake_at=now + wait)
    return (event, sleep)


def stopped(state: BuildState, seen: Usage | None, detail: str) -> Events:
    """Return the event that ends the open model call, or none when no call is open.

    The call costs the usage `seen`, or its worst case when `seen` is None.
    """
    if state.call is None:
        return ()
    failure = CallFailed("cancelled", detail, usage=seen, maybe_billed=True)
    return (_failed(state.call, failure, retry_at=None),)


def checkpoint(state: BuildState) -> Events:
    """Return the event `checkpoint.saved` for the last complete turn, or none when the log already has it."""
    conversation = state.conversation
    turn = conversation.turn if conversation.answered else conversation.turn - 1
    return (CheckpointSaved(turn=turn),) if turn > conversation.checkpoint else ()


def fail(state: BuildState, reason: FailReason, detail: str) -> Events:
    """Return the events that end the build as failed."""
    return (
        BuildPhaseChanged(from_phase=state.phase, to_phase=Phase.FAILED),
        BuildFailed(
            reason=reason, detail=detail, cost_microusd=state.funds.spent, turns=state.conversation.turn
        ),
    )


def _refusal(answer: Answer) -> str:
    """Return why the model refused, as far as the provider says it."""
    details = answer.stop_details or {}
    told = [str(details[name]) for name in ("category", "explanation") if details.get(name)]
    return ": ".join(["the model refused to go on", *told])[:_DETAIL]


def _responded(
    call: OpenCall, answer: Answer, content: tuple[dict[str, Any], ...], repaired: tuple[str, ...]
) -> ModelCallResponded:
    """Return the event of an answer with its cost. `content` is the answer's content after repairs."""
    return ModelCallResponded(
        turn=call.turn,
        attempt=call.attempt,
        role=None if call.role == "builder" else call.role,
        model=answer.model,
        message_id=answer.message_id,
        content=content,
        stop_reason=answer.stop_reason,
        stop_details=answer.stop_details,
        repaired=repaired or None,
        usage=answer.usage,
        price_version=prices.NEWEST,
        cost_microusd=prices.cost(call.model, answer.usage),
        latency_ms=answer.latency_ms,
        first_token_ms=answer.first_token_ms,
    )


def _failed(call: OpenCall, failure: CallFailed, *, retry_at: datetime | None) -> ModelCallFailed:
    return ModelCallFailed(
        turn=call.turn,
        attempt=call.attempt,
        role=None if call.role == "builder" else call.role,
        kind=failure.kind,
        status=failure.status,
        detail=failure.detail,
        retry_at=retry_at,
        usage=failure.usage or Usage(),
        price_version=prices.NEWEST,
        cost_microusd=_cost(call, failure),
    )


def _cost(call: OpenCall, failure: CallFailed) -> int:
    """Return the cost of a failed call in microdollars.

    This is the cost of the stated usage, or else the worst case. It is 0 for a call that the provider refused.
    """
    if failure.usage is not None:
        return prices.cost(call.model, failure.usage)
    return call.reserve_microusd if failure.maybe_billed else 0


def _act(state: BuildState, uses: list[dict[str, Any]], now: datetime) -> Events:
    requested = tuple(_request(state, index, use, now) for index, use in enumerate(uses))
    return (
        *_phase_moves(state, uses),
        *requested,
        *instructions.reading(state, uses, state.conversation.turn),
    )


def _stopped(state: BuildState, reason: str, policy: Policy) -> Events:
    """Return the message that lets the agent go on after an answer that stopped early or for an unknown reason.

    After too many such answers in a row, return the events that end the build as failed.
    """
    if state.counters.cuts > policy.max_cuts:
        detail = f"{state.counters.cuts} answers in a row stopped before their end: the last for {reason!r}"
        return fail(state, "model_error", detail)
    return (AgentSteered(reason="max_tokens", message=_STOPPED.format(reason=reason)),)


def _done(state: BuildState) -> Events:
    if state.conversation.waiting:
        return ()  # the agent first reads the messages that arrived meanwhile
    if not state.tool_calls_made:
        if "no_tool_call" not in state.counters.steered:
            return (AgentSteered(reason="no_tool_call", message=_USE_TOOLS),)
        if not state.request.checks and state.request.proof != "none":
            return fail(
                state, "unproven", _NOTHING
            )  # only the request's own checks can prove that there was nothing to do
    return (
        BuildPhaseChanged(from_phase=state.phase, to_phase=Phase.CHECKS),
        *checks.check_calls(state),
    )


def _request(
    state: BuildState, index: int, use: dict[str, Any], now: datetime
) -> ToolCallRequested | ApprovalRequested | QuestionAsked | ToolCallAnswered:
    turn, name, use_id = state.conversation.turn, str(use["name"]), str(use["id"])
    given = use.get("input")
    call_id = f"{state.request.build_id}/{turn}/{index}"
    question = questions.asked_by(use, call_id=call_id, turn=turn, index=index, now=now)
    if question is not None:
        return question
    tool = customer_tools.named(state, name)
    if tool is not None and (wrong := customer_tools.wrong_input(tool, given)) is not None:
        return ToolCallAnswered(
            call_id=call_id, is_error=True, output=wrong, by="policy", tool=name, tool_use_id=use_id
        )
    call = ToolCallRequested(
        call_id=call_id,
        turn=turn,
        index=index,
        tool=name,
        tool_use_id=use_id,
        input=given if isinstance(given, dict) else {},
        timeout_s=_timeout(name, given) if tool is None else tool.timeout_s,
        purpose="agent" if tool is None else "customer",
    )
    return approvals.asked_about(state, call, now) or approvals.run(call, now)


def _timeout(tool: str, given: Any) -> int:
    if tool != Bash.tool:
        return _TIMEOUT_S
    try:
        asked = Bash.model_validate(given).timeout_s  # read in the same way as the sandbox gateway reads it
    except ValidationError:
        asked = None
    return _TIMEOUT_S if asked is None else asked + _GRACE_S


def _phase_moves(state: BuildState, uses: list[dict[str, Any]]) -> tuple[BuildPhaseChanged, ...]:
    """Return the moves to phases that the agent names with `narrate`, except those that the table MOVES forbids."""
    phase = state.phase
    moves: list[BuildPhaseChanged] = []
    for use in uses:
        given = use.get("input")
        named = given.get("phase") if use.get("name") == Narrate.tool and isinstance(given, dict) else None
        if named in _AGENT_PHASES and may_move(phase, Phase(named)):
            moves.append(BuildPhaseChanged(from_phase=phase, to_phase=Phase(named)))
            phase = Phase(named)
    return tuple(moves)


def _describe(failure: CallFailed) -> str:
    status = f" (status {failure.status})" if failure.status is not None else ""
    return f"{failure.kind}{status}: {failure.detail}"
