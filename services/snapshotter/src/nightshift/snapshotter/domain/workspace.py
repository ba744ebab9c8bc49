"""Folds the stream of a build to the snapshots that must be made now."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildRewound,
    BuildWoken,
    CheckpointSaved,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxLost, SandboxOpened
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotReason, SnapshotSaved
from nightshift.eventlog.port import RecordedEvent
from nightshift.sandboxes.snapshots.at import writes

#: The order in which a build's snapshots are made: first those for which an end or a sleep waits.
ORDER: tuple[SnapshotReason, ...] = ("completion", "pre_sleep", "checkpoint")


#: Every so many turns all files are read again, because a remembered digest may miss a change that left no trace.
_FRESH_TURNS = 20


@dataclass(frozen=True, slots=True)
class WantedSnapshot:
    """A snapshot to make. The event with the id `cause` and the stream version `at_version` asks for it.

    `attempts` counts recorded failures. If `fresh`, the sandbox reads every file, otherwise only changed ones. `writes`
    counts the tool calls up to `at_version` that may have changed the workspace.
    """

    reason: SnapshotReason
    at_version: int
    cause: UUID
    attempts: int = 0
    fresh: bool = True
    writes: int = 0
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Workspace:
    """The workspace of a build. `sandbox_id` is None when no sandbox is open; then nothing can be saved.

    `wanted` has at most one snapshot for each reason. `passed_over` has the older checkpoints without a snapshot,
    oldest first.
    """

    project_id: str = ""
    sandbox_id: str | None = None
    wanted: Mapping[SnapshotReason, WantedSnapshot] = field(default_factory=dict)
    passed_over: tuple[WantedSnapshot, ...] = ()
    writes: int = 0  # tool calls so far that may have changed the workspace

    @property
    def next(self) -> WantedSnapshot | None:
        """The snapshot to make next, or None when none is wanted."""
        return next((self.wanted[reason] for reason in ORDER if reason in self.wanted), None)


def evolve(state: Workspace, event: RecordedEvent) -> Workspace:
    """Return the state after one more event of the build's stream. Most types of events change nothing."""
    match event.data:
        case BuildAccepted() as fact:
            return replace(state, project_id=fact.project_id)
        case SandboxOpened() as fact:
            return replace(state, sandbox_id=fact.sandbox_id)
        case SandboxClosed() | SandboxLost() | BuildRewound():
            # Nothing is left to save. The same event closes the pending rows.
            return replace(state, sandbox_id=None, wanted={}, passed_over=())
        case CheckpointSaved() as fact:
            return _want(_pass_over(state), "checkpoint", event, fresh=fact.turn % _FRESH_TURNS == 0)
        case ToolCallRequested() as fact if writes(fact):
            return replace(state, writes=state.writes + 1)
        case SleepRequested():
            return _want(state, "pre_sleep", event)
        case BuildWoken():
            return _drop(state, "pre_sleep", through=event.version)
        case SnapshotSaved() as fact:
            return _drop(
                _drop(state, fact.reason, through=fact.at_version), "checkpoint", through=fact.at_version
            )
        case SnapshotFailed() as fact if fact.final:
            return _drop(state, fact.reason, through=fact.at_version)
        case SnapshotFailed() as fact:
            return _failed(state, fact)
        case _ if event.data.terminal:
            # The completion snapshot replaces all others.
            return _want(replace(_pass_over(state), wanted={}), "completion", event)
        case _:
            return state


def _pass_over(state: Workspace) -> Workspace:
    """Move the last wanted checkpoint to `passed_over`, because a newer checkpoint or the end of the build follows.

    A checkpoint in `passed_over` still gets a snapshot if the sandbox has a copy of its files, or if no file can have
    changed since.
    """
    last = state.wanted.get("checkpoint")
    return state if last is None else replace(state, passed_over=(*state.passed_over, last))


def _want(state: Workspace, reason: SnapshotReason, event: RecordedEvent, *, fresh: bool = True) -> Workspace:
    if state.sandbox_id is None:
        return state
    wanted = WantedSnapshot(
        reason,
        event.version,
        event.event_id,
        fresh=fresh,
        writes=state.writes,
        traceparent=event.traceparent,
    )
    return replace(state, wanted={**state.wanted, reason: wanted})


def _drop(state: Workspace, reason: SnapshotReason, *, through: int) -> Workspace:
    if reason == "checkpoint":
        left = tuple(one for one in state.passed_over if one.at_version > through)
        state = replace(state, passed_over=left)
    known = state.wanted.get(reason)
    if known is None or known.at_version > through:
        return state
    return replace(state, wanted={name: one for name, one in state.wanted.items() if name != reason})


def _failed(state: Workspace, fact: SnapshotFailed) -> Workspace:
    known = state.wanted.get(fact.reason)
    if known is None or known.at_version != fact.at_version:
        return state
    tried = replace(known, attempts=max(known.attempts, fact.attempt))
    return replace(state, wanted={**state.wanted, fact.reason: tried})
