"""What the gateway knows of a build: the fold of its stream as far as sandboxes and tool calls go."""

from dataclasses import dataclass, field, replace
from typing import Literal
from uuid import UUID

from nightshift.contracts.events.build import (
    BuildAccepted,
    BuildCancelled,
    BuildFailed,
    BuildReady,
    BuildWoken,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.sandbox import (
    PreviewOpened,
    SandboxClosed,
    SandboxLost,
    SandboxOpened,
    SandboxPaused,
    SandboxRestored,
    ToolCallCompleted,
)
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.eventlog.port import RecordedEvent


@dataclass(frozen=True, slots=True)
class Box:
    """The build's sandbox. `restored`: the workspace that it must begin with is in it."""

    sandbox_id: str
    generation: int
    opened_id: UUID
    restored: bool
    paused: bool = False


@dataclass(frozen=True, slots=True)
class PendingCall:
    event_id: UUID
    version: int
    asked: ToolCallRequested


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The newest one that is stored."""

    key: str
    at_version: int
    tree_digest: str
    at_rest: bool  # taken before a sleep or after the end, when nothing ran


@dataclass(frozen=True, slots=True)
class View:
    """`asleep_since`: the version of the sleep that no wake has followed. `settled`: what came of its snapshot."""

    build_id: str
    version: int = 0
    project_id: str = ""
    accepted_id: UUID | None = None
    secrets: tuple[str, ...] = ()
    ended: Literal["ready", "failed", "cancelled"] | None = None
    end_version: int = 0
    generations: int = 0
    box: Box | None = None
    snapshot: Snapshot | None = None
    last_write: int = 0  # version of the newest event that may have changed the workspace
    asleep_since: int | None = None
    settled: tuple[Literal["saved", "failed"], UUID] | None = None
    completion: UUID | None = None  # the event that settled the completion's snapshot
    pending: dict[str, PendingCall] = field(default_factory=dict)

    @property
    def safe_to_lose(self) -> bool:
        """Whether the newest snapshot holds all that was done, and nothing of what waits now.

        A checkpoint's does not tell: it is taken while the next turn's calls may run already.
        """
        newest = self.snapshot
        return newest is not None and newest.at_rest and newest.at_version >= self.last_write

    @property
    def to_close(self) -> tuple[Literal["sleep", "ended"], UUID] | None:
        """Why the sandbox can be closed now, and the event that says so."""
        if self.box is None:
            return None
        if self.asleep_since is not None and self.settled is not None and self.settled[0] == "saved":
            return "sleep", self.settled[1]
        if self.ended in ("failed", "cancelled") and self.completion is not None:
            return "ended", self.completion
        return None

    @property
    def to_pause(self) -> UUID | None:
        """The failed snapshot for which the sandbox is kept, paused, over the sleep."""
        if self.box is None or self.box.paused or self.asleep_since is None:
            return None
        return self.settled[1] if self.settled is not None and self.settled[0] == "failed" else None


def evolve(view: View, event: RecordedEvent) -> View:
    """The view after this event. Types that say nothing of sandboxes leave it as it is."""
    view = replace(view, version=event.version)
    match event.data:
        case BuildAccepted() as data:
            return replace(view, project_id=data.project_id, secrets=data.secrets, accepted_id=event.event_id)
        case BuildReady() | BuildFailed() | BuildCancelled() as data:
            ended: Literal["ready", "failed", "cancelled"] = (
                "ready"
                if isinstance(data, BuildReady)
                else "failed"
                if isinstance(data, BuildFailed)
                else "cancelled"
            )
            return replace(view, ended=ended, end_version=event.version)
        case ToolCallRequested() as data:
            call = PendingCall(event.event_id, event.version, data)
            return replace(view, pending={**view.pending, data.call_id: call})
        case ToolCallCompleted() as data:
            left = {call_id: call for call_id, call in view.pending.items() if call_id != data.call_id}
            return replace(view, pending=left, last_write=event.version)
        case SleepRequested():
            return replace(view, asleep_since=event.version, settled=None)
        case BuildWoken():
            # Its next call resumes a sandbox that was kept: over the next sleep it has to be paused again.
            box = None if view.box is None else replace(view.box, paused=False)
            return replace(view, asleep_since=None, settled=None, box=box)
        case SnapshotSaved() | SnapshotFailed() as data:
            return _snapshot(view, event, data)
        case _:
            return _box(view, event)


def _snapshot(view: View, event: RecordedEvent, data: SnapshotSaved | SnapshotFailed) -> View:
    if isinstance(data, SnapshotSaved) and (
        view.snapshot is None or data.at_version >= view.snapshot.at_version
    ):
        newest = Snapshot(data.key, data.at_version, data.tree_digest, data.reason != "checkpoint")
        view = replace(view, snapshot=newest)
    saved = isinstance(data, SnapshotSaved)
    if not saved and not (isinstance(data, SnapshotFailed) and data.final):
        return view
    if data.reason == "pre_sleep" and view.asleep_since is not None and data.at_version >= view.asleep_since:
        return replace(view, settled=("saved" if saved else "failed", event.event_id))
    if data.reason == "completion":
        return replace(view, completion=event.event_id)
    return view


def _box(view: View, event: RecordedEvent) -> View:
    match event.data:
        case SandboxOpened() as data:
            box = Box(data.sandbox_id, data.generation, event.event_id, restored=view.snapshot is None)
            return replace(view, box=box, generations=max(view.generations, data.generation + 1))
        case SandboxRestored() if view.box is not None:
            return replace(view, box=replace(view.box, restored=True, paused=False))
        case SandboxPaused() if view.box is not None:
            return replace(view, box=replace(view.box, paused=True))
        case SandboxLost() | SandboxClosed():
            return replace(view, box=None)
        case PreviewOpened() if view.box is not None and view.box.paused:
            return replace(view, box=replace(view.box, paused=False))
        case _:
            return view
