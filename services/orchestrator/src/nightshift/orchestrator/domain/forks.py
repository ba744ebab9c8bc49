"""Forks: finds the moment of a build from which a fork starts, checks the fork's request, and folds its beginning.

The conversation of the base build is copied into `build.forked` in a plain form. Every block stays unchanged, because
the provider binds thinking to everything that came before.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter

from nightshift.contracts import canonical, models
from nightshift.contracts.events.build import (
    AgentSteered,
    BuildAccepted,
    BuildForked,
    BuildRewound,
    CheckpointSaved,
    ToolCallRequested,
)
from nightshift.contracts.events.requests import BuildRequested
from nightshift.contracts.events.sandbox import SandboxRestored
from nightshift.contracts.events.snapshot import SnapshotSaved
from nightshift.contracts.model import BlobRef, Event
from nightshift.contracts.tools import TOOLS
from nightshift.eventlog.errors import BadMessage
from nightshift.eventlog.port import RecordedEvent
from nightshift.orchestrator.domain.commands import ForkBase
from nightshift.orchestrator.domain.entries import Entries
from nightshift.orchestrator.domain.replace import replace
from nightshift.orchestrator.domain.state import (
    AssistantMessage,
    BuildState,
    Conversation,
    Entry,
    FailureCounters,
    RunMode,
    Workspace,
)

#: The fields that a fork may choose for itself. All others must equal those of the base build, because its conversation
#: and its files depend on them.
_OWN = frozenset(
    {"build_id", "account_id", "model", "models", "base_build_id", "at", "message", "deadline"}
    | {"egress_hosts", "approvals", "cost_limit_microusd"}
)
#: The tools whose calls can change the workspace.
_WRITING = frozenset(name for name, tool in TOOLS.items() if tool.effect == "write")
_THINKING = frozenset({"thinking", "redacted_thinking"})
#: Sent when the person gave no message, because a request to the model must not end with the model's own answer.
_GO_ON = "Go on from here."


@dataclass(slots=True)
class ForkPoint:
    """Reads the events of a build in order, and finds the state at the end of one turn and a snapshot of that moment's
    files.

    A snapshot of another moment has the same files when no tool call between the two moments can have written files.
    """

    build_id: str
    turn: int
    state: BuildState | None = None
    # Version, key and tree digest of each.
    snapshots: list[tuple[int, str, str | None]] = field(default_factory=list)
    newest: int = 0  # the last turn that has ended
    _writes: list[int] = field(default_factory=list)  # versions at which the files may have changed

    def read(self, event: RecordedEvent, state: BuildState) -> None:
        """Note the next event of the build, and the state after this event."""
        fact = event.data
        if isinstance(fact, CheckpointSaved):
            self.newest = max(self.newest, fact.turn)
        if self.state is None and isinstance(fact, CheckpointSaved) and fact.turn == self.turn:
            self.state = state
        elif self.state is None and fact.terminal and state.conversation.turn == self.turn:
            # The last turn has no checkpoint. The open calls are those of the checks, which are not in the
            # conversation.
            self.state = replace(state, tool_calls=())
        if isinstance(fact, BuildRewound | SandboxRestored) or (
            isinstance(fact, ToolCallRequested) and fact.tool in _WRITING
        ):
            self._writes.append(event.version)
        if isinstance(fact, SnapshotSaved) and fact.consistency in (None, "exact"):
            self.snapshots.append((fact.at_version, fact.key, fact.tree_digest))
        elif isinstance(fact, BuildForked | BuildRewound) and fact.snapshot_key is not None:
            self.snapshots.append((event.version, fact.snapshot_key, fact.tree_digest))
        elif isinstance(fact, SandboxRestored) and not fact.lost and not fact.differs:
            self.snapshots.append((event.version, fact.from_snapshot, fact.tree_digest))

    def snapshot(self, version: int) -> tuple[int, str, str | None] | None:
        """Return the nearest snapshot that has the files as they were at this version, or None when there is none."""
        writes = bisect_right(self._writes, version)
        same = [one for one in self.snapshots if bisect_right(self._writes, one[0]) == writes]
        return min(same, key=lambda one: abs(one[0] - version), default=None)

    def base(self) -> ForkBase:
        """Return the build at the end of the turn, from which a fork starts.

        Raises BadMessage when the turn has not ended, or when no snapshot has its files.
        """
        state = self.state
        if state is None or not state.conversation.answered:
            raise BadMessage(
                f"turn {self.turn} of {self.build_id} has not ended",
                field="at",
                hint=f"the last is {self.newest}",
            )
        found = self.snapshot(state.version)
        if found is None and (state.workspace.sandbox_id is not None or state.wrote):
            raise BadMessage(
                f"there is no exact snapshot of the files after turn {self.turn} of {self.build_id}",
                field="at",
                hint="it may not be saved yet: try again, or take another turn (`nightshift log` has the snapshots)",
            )
        return ForkBase(
            accepted=state.request,
            at_version=state.version,
            at_turn=self.turn,
            conversation=plain(replace(state.conversation, checkpoint=self.turn)),
            tool_calls=state.tool_calls_made,
            wrote=state.wrote,
            snapshot_key=None if found is None else found[1],
            tree_digest=None if found is None else found[2],
        )


def check_fork(request: BuildRequested, base: BuildAccepted) -> None:
    """Raise BadMessage, which names the field, when the request contradicts the base build."""
    for name in BuildRequested.model_fields:
        if name not in _OWN and getattr(request, name) != getattr(base, name):
            raise BadMessage(
                f"`{name}` is not that of the base build {base.build_id}, which a fork continues", field=name
            )


def accepted(fresh: BuildAccepted, request: BuildRequested, base: ForkBase) -> BuildAccepted:
    """Return the event that accepts a fork.

    It has the models of the base build, except those that the request names. Its limits count from the fork's start.
    """
    model, effort = builder(request, base), base.accepted.effort
    if model != base.accepted.model:
        effort = effort if effort in models.card_of(model).efforts else None
    known = base.accepted.models
    changes = {
        "model": model,
        "models": None if known is None else {**known, **(request.models or {}), "builder": model},
        "effort": effort,
        "turn_limit": fresh.turn_limit + base.at_turn,
        "tool_call_limit": fresh.tool_call_limit + base.tool_calls,
    }
    return fresh.model_copy(update=changes)


def builder(request: BuildRequested, base: ForkBase) -> str:
    """Return the model of a fork's agent: the model that the request names, or else the model of the base build."""
    return request.model or (request.models or {}).get("builder") or base.accepted.model


def events(request: BuildRequested, base: ForkBase) -> tuple[Event, ...]:
    """Return the events that begin a fork: the conversation of its base, and the request's message to the agent."""
    other_model = builder(request, base) != base.accepted.model
    forked = BuildForked(
        base_build_id=base.accepted.build_id,
        at_version=base.at_version,
        at_turn=base.at_turn,
        conversation=_for_another_model(base.conversation) if other_model else base.conversation,
        tool_calls=base.tool_calls,
        wrote=base.wrote,
        snapshot_key=base.snapshot_key,
        tree_digest=base.tree_digest,
    )
    return (forked, AgentSteered(reason="person", message=request.message or _GO_ON))


def forked(state: BuildState, data: BuildForked) -> BuildState:
    """Fold the beginning of a fork: take over the conversation of the base build.

    The money, questions, failures and sandbox of the base build are not taken over.
    """
    given = data.conversation
    if given is None or isinstance(given, BlobRef):  # a reader without the object store knows the turn only
        conversation = Conversation(turn=data.at_turn, checkpoint=data.at_turn)
    else:
        conversation = conversation_of(given)
    return replace(state, conversation=conversation, tool_calls_made=data.tool_calls, wrote=data.wrote)


def may_rewind(state: BuildState) -> bool:
    """Return whether the build is stopped, and no model call and no tool call of it is running."""
    outside = state.open_outside
    working = any(call.result is None and call.call_id not in outside for call in state.tool_calls)
    return state.mode in (RunMode.WAITING, RunMode.SLEEPING) and state.call is None and not working


def rewound(state: BuildState, data: BuildRewound) -> BuildState:
    """Fold a rewind: return to the conversation of an earlier turn, and forget the present sandbox.

    The spent money and the count of turns stay.
    """
    now = state.conversation
    given = data.conversation
    then = (
        Conversation() if given is None or isinstance(given, BlobRef) else conversation_of(given)
    )  # a reader without the object store knows the turn only
    conversation = replace(
        then, turn=now.turn, attempt=now.attempt, answered=True, checkpoint=max(now.checkpoint, now.turn)
    )
    return replace(
        state,
        conversation=conversation,
        tool_calls=(),
        counters=FailureCounters(),
        workspace=Workspace(unsaved=state.workspace.unsaved),
    )


def plain(conversation: Conversation) -> dict[str, Any]:
    """Return the conversation as a JSON object, without the fields that have their default value."""
    default = Conversation()
    given: dict[str, Any] = {}
    for name, adapter in _adapters().items():
        value = getattr(conversation, name)
        if value != getattr(default, name):
            given[name] = adapter.dump_python(tuple(value) if name == "entries" else value)
    found: dict[str, Any] = canonical.loads(canonical.dumps(given))
    return found


def conversation_of(given: dict[str, Any]) -> Conversation:
    """Return the conversation from the JSON object that `plain` returns. Ignores fields unknown to this version."""
    adapters = _adapters()
    values = {
        name: adapters[name].validate_python(value) for name, value in given.items() if name in adapters
    }
    if "entries" in values:
        values["entries"] = Entries(values["entries"])
    return Conversation(**values)


def _for_another_model(given: dict[str, Any]) -> dict[str, Any]:
    """Return the plain form of a conversation without the thinking and the token count, for use with another model."""
    conversation = conversation_of(given)
    entries = Entries(map(_without_thinking, conversation.entries))
    return plain(replace(conversation, entries=entries, tokens=None))


def _without_thinking(entry: Entry) -> Entry:
    if not isinstance(entry, AssistantMessage) or isinstance(entry.content, BlobRef):
        return entry
    kept: Iterable[dict[str, Any]] = (one for one in entry.content if one.get("type") not in _THINKING)
    return AssistantMessage(entry.turn, tuple(kept))


@cache
def _adapters() -> dict[str, TypeAdapter[Any]]:
    """Return for each field of Conversation the adapter that writes and reads it as JSON."""
    hints = get_type_hints(Conversation) | {"entries": tuple[Entry, ...]}
    return {one.name: TypeAdapter(hints[one.name]) for one in fields(Conversation)}
