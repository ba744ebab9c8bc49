"""Model calls of the roles beside the builder: whose turn it is, what they send, and what follows their answers.

They are paid from the build's grants like the builder's. Their answers never enter the builder's conversation, whose
requests only grow. Each role has a module of its own, which the functions here choose.
"""

from datetime import datetime
from typing import Any

from nightshift.contracts import canonical
from nightshift.contracts.events.build import ModelCallResponded, ModelCallStarted
from nightshift.contracts.model import Event
from nightshift.contracts.models import Role
from nightshift.eventlog.errors import Fault
from nightshift.orchestrator.domain import funds
from nightshift.orchestrator.domain.commands import StartCall
from nightshift.orchestrator.domain.model_choice import model_of
from nightshift.orchestrator.domain.policy import Policy
from nightshift.orchestrator.domain.state import BuildState, Entry

Events = tuple[Event, ...]


def next_role(state: BuildState, policy: Policy) -> Role:
    """Return the role that makes the next model call."""
    return "builder"


def start(state: BuildState, command: StartCall) -> ModelCallStarted:
    """Return the start of a call of another role than the builder."""
    return ModelCallStarted(
        turn=state.conversation.turn,
        attempt=state.side_calls + 1,
        role=command.role,
        model=model_of(state.request, command.role),
        lease_id=command.lease_id,
        reserve_microusd=command.reserve_microusd,
    )


def worst_case(state: BuildState, policy: Policy, role: Role) -> int:
    """Return the most microdollars that the role's next call can cost. A token has at least one byte."""
    body = request(state, policy, role)
    tokens = len(canonical.dumps(body))
    return funds.worst_case(model_of(state.request, role), tokens, body["max_tokens"])


def request_bytes(state: BuildState, policy: Policy, role: Role) -> bytes:
    """Return the body of the role's next call as canonical JSON."""
    return canonical.dumps(request(state, policy, role)).encode("ascii")


def request(state: BuildState, policy: Policy, role: Role) -> dict[str, Any]:
    """Return the body of the role's next call. Raises Fault for a role that makes no calls."""
    raise Fault(f"the role {role} makes no model calls in this version")


def entries(state: BuildState, role: Role) -> tuple[Entry, ...]:
    """Return what the role's conversation holds so far."""
    return ()


def started(state: BuildState, data: ModelCallStarted) -> BuildState:
    """Fold the start of a call of another role than the builder."""
    return state


def responded(state: BuildState, data: ModelCallResponded) -> BuildState:
    """Fold the answer to a call of another role than the builder."""
    return state


def following(state: BuildState, data: ModelCallResponded, policy: Policy, now: datetime) -> Events:
    """Return the events that follow this answer of another role. `state` is the one after it."""
    return ()
