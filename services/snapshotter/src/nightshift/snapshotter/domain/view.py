"""What the snapshotter knows of a build, a fold of the log: its project, its sandbox, which snapshots are wanted."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from uuid import UUID

from nightshift.contracts.events.build import BuildAccepted, BuildWoken, CheckpointSaved, SleepRequested
from nightshift.contracts.events.sandbox import SandboxClosed, SandboxLost, SandboxOpened
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotReason, SnapshotSaved
from nightshift.eventlog.port import RecordedEvent

#: The order in which wanted snapshots are made: what ends a wait for somebody comes first.
ORDER: tuple[SnapshotReason, ...] = ("completion", "pre_sleep", "checkpoint")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A snapshot somebody asked for: by which event, and how often it was tried."""

    reason: SnapshotReason
    at_version: int
    cause: UUID
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A build up to `version`. `sandbox_id` none: there is no sandbox now."""

    version: int = 0
    project_id: str | None = None
    sandbox_id: str | None = None
    wanted: Mapping[SnapshotReason, Wanted] = field(default_factory=dict)

    @property
    def next(self) -> Wanted | None:
        """The snapshot to make now."""
        return next((self.wanted[reason] for reason in ORDER if reason in self.wanted), None)


def see(view: View, event: RecordedEvent) -> View:
    """The view after one more event of the build's stream."""
    now = replace(view, version=event.version)
    match event.data:
        case BuildAccepted() as fact:
            return replace(now, project_id=fact.project_id)
        case SandboxOpened() as fact:
            return replace(now, sandbox_id=fact.sandbox_id)
        case SandboxClosed() | SandboxLost():
            return replace(now, sandbox_id=None)
        case CheckpointSaved():
            return _want(now, "checkpoint", event)
        case SleepRequested():
            return _want(now, "pre_sleep", event)
        case BuildWoken():
            return _drop(now, "pre_sleep", through=event.version)
        case SnapshotSaved() as fact:
            return _drop(
                _drop(now, fact.reason, through=fact.at_version), "checkpoint", through=fact.at_version
            )
        case SnapshotFailed() as fact if fact.final:
            return _drop(now, fact.reason, through=fact.at_version)
        case SnapshotFailed() as fact:
            return _tried(now, fact)
        case _ if event.data.terminal:
            return _drop(_want(now, "completion", event), "pre_sleep", through=event.version)
        case _:
            return now


def _want(view: View, reason: SnapshotReason, event: RecordedEvent) -> View:
    wanted = Wanted(reason, event.version, event.event_id)
    return replace(view, wanted={**view.wanted, reason: wanted})


def _drop(view: View, reason: SnapshotReason, *, through: int) -> View:
    known = view.wanted.get(reason)
    if known is None or known.at_version > through:
        return view
    return replace(view, wanted={name: one for name, one in view.wanted.items() if name != reason})


def _tried(view: View, fact: SnapshotFailed) -> View:
    known = view.wanted.get(fact.reason)
    if known is None or known.at_version != fact.at_version:
        return view
    tried = replace(known, attempts=max(known.attempts, fact.attempt))
    return replace(view, wanted={**view.wanted, fact.reason: tried})
