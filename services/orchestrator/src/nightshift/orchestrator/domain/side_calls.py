"""The model calls of roles other than the builder: who calls next, what is sent, and what follows an answer.

The build's grants pay for these calls, too. Their answers never enter the builder's conversation, whose requests only
grow. Each role has a module of its own, which the functions here select.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from nightshift.contracts import canonical
from nightshift.contracts.events.build import ModelCallFailed, ModelCallResponded, ModelCallStarted
from nightshift.contracts.model import Event
from nightshift.contracts.models import Role
from nightshift.eventlog.errors import Fault
from nightshift.orchestrator.domain import condenser, context, funds, judge_prompt, judging, verdicts
from nightshift.orchestrator.domain.commands import StartCall
from nightshift.orchestrator.domain.model_choice import model_of
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import BuildState, Entry

Events = tuple[Event, ...]


def next_role(state: BuildState, policy: Policy) -> Role:
    """Return the role that makes the next model call."""
    if verdicts.due(state):
        return "judge"
    return "condenser" if context.is_over(state, policy) else "builder"


def start(state: BuildState, command: StartCall) -> ModelCallStarted:
    """Return the event that starts a call of a role other than the builder."""
    return ModelCallStarted(
        turn=state.conversation.turn,
        attempt=state.side_calls + 1,
        role=command.role,
        model=model_of(state.request, command.role),
        lease_id=command.lease_id,
        reserve_microusd=command.reserve_microusd,
        counted_tokens=command.counted_tokens,
    )


def worst_case(state: BuildState, policy: Policy, role: Role) -> int:
    """Return the most microdollars that the role's next model call can cost, with one token for each byte."""
    body = request(state, policy, role)
    tokens = len(canonical.dumps(body))
    if role == "judge":
        tokens = min(tokens, judging.tokens_bound(state) or tokens)
    return funds.worst_case(model_of(state.request, role), tokens, body["max_tokens"])


def request_bytes(state: BuildState, policy: Policy, role: Role) -> bytes:
    """Return the body of the role's next model request as canonical JSON."""
    return canonical.dumps(request(state, policy, role)).encode("ascii")


def request(state: BuildState, policy: Policy, role: Role) -> dict[str, Any]:
    """Return the body of the role's next model request. Raises Fault for the builder and for an unknown role."""
    if role == "condenser":
        return condenser.request(state, policy)
    if role == "judge":
        return judge_prompt.judge_request(state, policy)
    raise Fault(f"the role {role} makes no model calls in this version")


def entries(state: BuildState, role: Role) -> Sequence[Entry]:
    """Return the entries of the role's conversation so far. Returns none for a role that has no conversation now."""
    return state.judging.conversation.entries if role == "judge" and state.judging is not None else ()


def started(state: BuildState, data: ModelCallStarted) -> BuildState:
    """Fold the start of a call of a role other than the builder."""
    return judging.started(state) if data.role == "judge" else state


def responded(state: BuildState, data: ModelCallResponded) -> BuildState:
    """Fold the answer to a call of a role other than the builder."""
    return judging.responded(state, data) if data.role == "judge" else state


def failed(state: BuildState, data: ModelCallFailed) -> BuildState:
    """Fold the failure of a call of a role other than the builder."""
    return judging.failed(state, data) if data.role == "judge" else state


def following(state: BuildState, data: ModelCallResponded, policy: Policy, now: datetime) -> Events:
    """Return the events that follow this answer of a role other than the builder.

    `state` is the state after the answer.
    """
    if data.role == "condenser":
        return (condenser.condensed(state, data, policy),)
    return verdicts.following(state, policy) if data.role == "judge" else ()
