"""What the snapshotter listens to. Each only takes note: the build goes to the pool, the log says what it wants."""

from collections.abc import Mapping

from nightshift.bus.port import Handler
from nightshift.contracts.events.build import (
    BuildCancelled,
    BuildFailed,
    BuildReady,
    CheckpointSaved,
    SleepRequested,
)
from nightshift.contracts.model import Event
from nightshift.eventlog.port import PendingItem, RecordedEvent
from nightshift.servicekit.worker_pool import WorkerPool
from nightshift.snapshotter.usecases import Snapshots


class Handlers:
    """The handlers over one pool."""

    def __init__(self, snapshots: Snapshots, pool: WorkerPool) -> None:
        self._snapshots = snapshots
        self._pool = pool

    def on_builds(self) -> Mapping[type[Event], Handler]:
        """Checkpoints, sleeps and ends."""
        kinds = (CheckpointSaved, SleepRequested, BuildReady, BuildFailed, BuildCancelled)
        return dict.fromkeys(kinds, self.on_snapshot_wanted)

    async def on_snapshot_wanted(self, event: RecordedEvent) -> None:
        """A build wants a snapshot."""
        self._offer(event.subject)

    async def on_waiting(self, item: PendingItem) -> None:
        """The log says that a snapshot waits: its message was lost, or its maker died."""
        self._offer(item.stream_id.removeprefix("build-"))

    def _offer(self, build_id: str) -> None:
        self._pool.offer(build_id, lambda: self._snapshots.make(build_id))
