"""Folds the stream of a build to a state: its sandbox, its pending tool calls, its snapshots."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildCancelled,
    BuildFailed,
    BuildForked,
    BuildReady,
    BuildRewound,
    BuildWoken,
    CheckpointSaved,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.requests import Source
from nightshift.contracts.events.sandbox import (
    PreviewOpened,
    SandboxClosed,
    SandboxLost,
    SandboxOpened,
    SandboxPaused,
    SandboxRestored,
    SandboxStalled,
    SourceDelivered,
    ToolCallCompleted,
)
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event, Owner
from nightshift.eventlog.port import RecordedEvent

Ending = Literal["ready", "failed", "cancelled"]
_ENDS: dict[type[Event], Ending] = {BuildReady: "ready", BuildFailed: "failed", BuildCancelled: "cancelled"}


@dataclass(frozen=True, slots=True)
class OpenSandbox:
    """The sandbox of a build. `restored`: its workspace is that of the newest snapshot, or there is no snapshot.

    `last_command` is the id of the last bash call that ended in the sandbox. `resumed`: the sandbox was paused and
    resumed, and no call has ended in it since.
    """

    sandbox_id: str
    opened_id: UUID
    opened_version: int
    restored: bool
    paused: bool = False
    last_command: str | None = None
    resumed: bool = False


@dataclass(frozen=True, slots=True)
class PendingCall:
    event_id: UUID
    version: int
    asked: ToolCallRequested
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class StoredSnapshot:
    """The newest snapshot of the build. `at_rest`: no tool call could run while the snapshot was made."""

    key: str
    at_version: int
    at_rest: bool  # taken before a sleep or after the end, when no call was running


@dataclass(frozen=True, slots=True)
class SandboxState:
    """What the sandbox gateway knows about one build: its sandbox, its pending tool calls, its snapshots."""

    build_id: str
    project_id: str = ""
    account_id: str = ""
    accepted_id: UUID | None = None
    secrets: tuple[str, ...] = ()
    egress_hosts: tuple[str, ...] = ()
    source: Source | None = None
    setup_commands: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_id: UUID | None = None
    delivered: bool = False  # the commits of a ready build are pushed or stored
    ended: Ending | None = None
    end_version: int = 0
    ready_since: datetime | None = None  # the time of build.ready
    generations: int = 0
    sandbox: OpenSandbox | None = None
    snapshot: StoredSnapshot | None = None
    checkpoint: int = 0  # the version of the newest checkpoint
    last_write: int = 0  # the version of the newest event that may have changed the workspace
    asleep_since: int | None = None  # the version of a sleep that no wake has followed
    # The result of the snapshot before that sleep.
    settled: tuple[Literal["saved", "failed"], UUID] | None = None
    completion: UUID | None = None  # the event with the result of the completion snapshot
    stalled: SandboxStalled | None = None  # set while no other event of the gateway has followed it
    stalls: int = 0  # the number of all sandbox.stalled events
    pending: dict[str, PendingCall] = field(default_factory=dict)

    @property
    def safe_to_lose(self) -> bool:
        """Whether the build loses no files if its sandbox is lost: the newest snapshot contains the results of all
        completed calls.

        A checkpoint's snapshot is never enough, because calls of the next turn may run while it is made.
        """
        newest = self.snapshot
        return newest is not None and newest.at_rest and newest.at_version >= self.last_write

    @property
    def to_close(self) -> tuple[Literal["sleep", "ended"], UUID] | None:
        """Why the sandbox must be closed now (`sleep` or `ended`), and the id of the event that is the reason.

        None when the sandbox must stay open, or when there is no sandbox.
        """
        if self.sandbox is None:
            return None
        if self.asleep_since is not None and self.settled is not None and self.settled[0] == "saved":
            return "sleep", self.settled[1]
        if self.ended not in ("failed", "cancelled"):
            return None
        if self.sandbox.opened_version > self.end_version:  # no call ran in it, so it needs no snapshot
            return "ended", self.sandbox.opened_id
        return None if self.completion is None else ("ended", self.completion)

    @property
    def waits(self) -> UUID | None:
        """The id of the event that asks for the next step, or None when there is no step to do.

        The next step is the oldest pending call. Without calls it is, in this order, a close, a pause or a delivery of
        commits.
        """
        if self.pending:
            return min(self.pending.values(), key=lambda call: call.version).event_id
        return self.to_close[1] if self.to_close is not None else self.to_pause or self.to_deliver

    @property
    def to_deliver(self) -> UUID | None:
        """The id of the event build.ready when the build's git commits must be delivered now, otherwise None.

        They are delivered once, after the snapshot that follows the end of the build.
        """
        waits = self.source is not None and not self.delivered and self.completion is not None
        return self.ready_id if waits and self.sandbox is not None else None

    @property
    def to_pause(self) -> UUID | None:
        """The id of the event snapshot.failed when the sandbox must be paused now, otherwise None.

        That is so during a sleep whose snapshot failed: the paused sandbox keeps the files.
        """
        if self.sandbox is None or self.sandbox.paused or self.asleep_since is None:
            return None
        return self.settled[1] if self.settled is not None and self.settled[0] == "failed" else None


def evolve(state: SandboxState, event: RecordedEvent) -> SandboxState:
    """Return the state after one more event of the build. Events that do not concern sandboxes change nothing."""
    if isinstance(event.data, SandboxStalled):
        return replace(state, stalled=event.data, stalls=state.stalls + 1)
    if event.data.owner is Owner.SANDBOX_GATEWAY:
        state = replace(state, stalled=None)
    match event.data:
        case BuildAccepted() as data:
            return replace(
                state,
                project_id=data.project_id,
                account_id=data.account_id,
                secrets=data.secrets,
                egress_hosts=data.egress_hosts,
                source=data.source,
                setup_commands=data.setup_commands,
                environment=data.environment,
                accepted_id=event.event_id,
            )
        case BuildForked(snapshot_key=str(key)):
            return replace(state, snapshot=StoredSnapshot(key, 0, at_rest=True))
        case BuildRewound() as data:
            # The sandbox holds the files of the abandoned branch: the sweeper kills it, and the next call opens another
            # one.
            saved = data.snapshot_key
            back = None if saved is None else StoredSnapshot(saved, event.version, at_rest=True)
            return replace(state, sandbox=None, snapshot=back, last_write=event.version)
        case BuildReady() | BuildFailed() | BuildCancelled() as data:
            ready = isinstance(data, BuildReady)
            return replace(
                state,
                ended=_ENDS[type(data)],
                end_version=event.version,
                ready_id=event.event_id if ready else None,
                ready_since=event.recorded_at if ready else None,
            )
        case ToolCallRequested(purpose="customer"):
            return state  # a consumer of the customer answers this call
        case ToolCallRequested() as data:
            call = PendingCall(event.event_id, event.version, data, event.traceparent)
            return replace(state, pending={**state.pending, data.call_id: call})
        case ToolCallCompleted() as data:
            left = {call_id: call for call_id, call in state.pending.items() if call_id != data.call_id}
            ended = state.pending.get(data.call_id)
            sandbox = state.sandbox
            if sandbox is not None and ended is not None and ended.asked.tool == "bash":
                sandbox = replace(sandbox, last_command=data.call_id, resumed=False)
            return replace(state, pending=left, last_write=event.version, sandbox=sandbox)
        case CheckpointSaved():
            return replace(state, checkpoint=event.version)
        case SourceDelivered():
            return replace(state, delivered=True)
        case SleepRequested():
            return replace(state, asleep_since=event.version, settled=None)
        case BuildWoken():
            # The next call resumes a sandbox that was paused, so the next sleep has to pause it again.
            sandbox = state.sandbox
            if sandbox is not None:
                sandbox = replace(sandbox, paused=False, resumed=sandbox.resumed or sandbox.paused)
            return replace(state, asleep_since=None, settled=None, sandbox=sandbox)
        case SnapshotSaved() | SnapshotFailed() as data:
            return _snapshot(state, event, data)
        case _:
            return _sandbox(state, event)


def _snapshot(
    state: SandboxState, event: RecordedEvent, data: SnapshotSaved | SnapshotFailed
) -> SandboxState:
    if isinstance(data, SnapshotSaved):
        if state.snapshot is None or data.at_version >= state.snapshot.at_version:
            newest = StoredSnapshot(data.key, data.at_version, data.reason != "checkpoint")
            state = replace(state, snapshot=newest)
    elif not data.final:
        return state
    asleep_since = state.asleep_since
    if data.reason == "pre_sleep" and asleep_since is not None and data.at_version >= asleep_since:
        return replace(
            state, settled=("saved" if isinstance(data, SnapshotSaved) else "failed", event.event_id)
        )
    if data.reason == "completion" and state.ended is not None:
        return replace(state, completion=event.event_id)
    return state


def _sandbox(state: SandboxState, event: RecordedEvent) -> SandboxState:
    if isinstance(data := event.data, SandboxOpened):
        restored = state.snapshot is None
        opened = OpenSandbox(data.sandbox_id, event.event_id, event.version, restored=restored)
        return replace(state, sandbox=opened, generations=max(state.generations, data.generation + 1))
    sandbox = state.sandbox
    if sandbox is not None:
        match data:
            case SandboxRestored():
                sandbox = replace(sandbox, restored=True, paused=False)
            case SandboxPaused():
                sandbox = replace(sandbox, paused=True)
            case PreviewOpened():
                sandbox = replace(sandbox, paused=False)
            case SandboxLost() | SandboxClosed():
                sandbox = None
    return replace(state, sandbox=sandbox)
