"""Maps the messages that the snapshotter reads to its use case.

A message only names the build that needs a snapshot; the use case reads the build's stream and decides.
"""

import asyncio
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
from nightshift.servicekit.build_accounts import BuildAccounts
from nightshift.servicekit.worker_pool import WorkerPool
from nightshift.snapshotter.usecases.snapshots import Snapshots


class Handlers:
    """The message handlers. They offer a build to the worker pool, and again after a delay when its snapshot failed."""

    def __init__(self, snapshots: Snapshots, pool: WorkerPool, accounts: BuildAccounts) -> None:
        self._accounts = accounts
        self._snapshots = snapshots
        self._pool = pool
        self._again: dict[str, asyncio.TimerHandle] = {}

    def on_builds(self) -> Mapping[type[Event], Handler]:
        """The handlers of the build topic: checkpoints, sleeps and ends of builds."""
        kinds = (CheckpointSaved, SleepRequested, BuildReady, BuildFailed, BuildCancelled)
        return dict.fromkeys(kinds, self.on_snapshot_wanted)

    async def on_snapshot_wanted(self, event: RecordedEvent) -> None:
        await self._accounts.load(event.subject)
        self._offer(event.subject)

    async def on_pending(self, item: PendingItem) -> None:
        """Make a snapshot that is pending in the log: its message was lost, or the process that made it died."""
        build_id = item.stream_id.removeprefix("build-")
        await self._accounts.load(build_id)
        self._offer(build_id)

    def _offer(self, build_id: str) -> None:
        self._pool.offer(build_id, lambda: self._make(build_id))

    async def _make(self, build_id: str) -> None:
        timer = self._again.pop(build_id, None)
        if timer is not None:
            timer.cancel()
        pause = await self._snapshots.make(build_id)
        if pause is not None:
            self._again[build_id] = asyncio.get_running_loop().call_later(pause, self._offer, build_id)
