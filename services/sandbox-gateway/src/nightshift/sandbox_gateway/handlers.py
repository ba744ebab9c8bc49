"""What the gateway listens to. Each takes note of the build; the work is done in the pool, from the log."""

import asyncio
from collections.abc import Mapping

from nightshift.bus.port import Handler
from nightshift.contracts.events.build import (
    BuildCancelled,
    BuildFailed,
    BuildReady,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event
from nightshift.eventlog.port import PendingItem, RecordedEvent
from nightshift.sandbox_gateway.usecases.gateway import Gateway
from nightshift.servicekit.worker_pool import WorkerPool


class Desk:
    """Hands builds to the pool: now, or in a while."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._gateway: Gateway | None = None

    def serve(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def note(self, build_id: str) -> None:
        gateway = self._gateway
        if gateway is not None:
            self._pool.offer(build_id, lambda: gateway.work(build_id))

    def later(self, build_id: str, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.note, build_id)

    def cancel(self, build_id: str) -> None:
        if self._gateway is not None:
            self._gateway.cancel(build_id)

    async def take(self, item: PendingItem) -> None:
        """What the log says waits: a tool call or an open sandbox."""
        self.note(item.stream_id.partition("-")[2])


class Handlers:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def on_builds(self) -> Mapping[type[Event], Handler]:
        """What builds ask, and their sleep and end."""
        ends = (BuildFailed, BuildCancelled)
        return {
            **dict.fromkeys((ToolCallRequested, SleepRequested, BuildReady), self.on_build_moved),
            **dict.fromkeys(ends, self.on_build_ended),
        }

    def on_snapshots(self) -> Mapping[type[Event], Handler]:
        return dict.fromkeys((SnapshotSaved, SnapshotFailed), self.on_snapshot)

    async def on_build_moved(self, event: RecordedEvent) -> None:
        self._desk.note(event.subject)

    async def on_build_ended(self, event: RecordedEvent) -> None:
        self._desk.cancel(event.subject)
        self._desk.note(event.subject)

    async def on_snapshot(self, event: RecordedEvent) -> None:
        """Only what comes before a sleep or after an end decides over a sandbox."""
        if isinstance(event.data, SnapshotSaved | SnapshotFailed) and event.data.reason != "checkpoint":
            self._desk.note(event.subject)
