"""The events that the sandbox gateway reacts to.

A handler only dispatches the build; the worker reads the log and decides. So a second delivery of an event changes
nothing.
"""

from collections.abc import Mapping

from nightshift.bus.port import Gate, Handler, Subscription
from nightshift.contracts.events.build import (
    BuildCancelled,
    BuildFailed,
    BuildReady,
    SleepRequested,
    ToolCallRequested,
)
from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event
from nightshift.contracts.topics import Topics
from nightshift.eventlog.port import RecordedEvent
from nightshift.sandbox_gateway.usecases.call_dispatcher import CallDispatcher

#: Seconds that a fetch of the snapshot topic may wait for more records. Only the closing of sandboxes depends on them.
_SNAPSHOT_DELAY_S = 0.1


class Handlers:
    def __init__(self, dispatcher: CallDispatcher) -> None:
        self._dispatcher = dispatcher

    def subscriptions(self, topics: Topics, service: str, gate: Gate) -> tuple[Subscription, ...]:
        """Return what the service subscribes to. While `gate` is full, it takes no events of builds."""
        snapshots = topics.group(service, topics.snapshot)
        return (
            Subscription(topics.build, topics.group(service, topics.build), self.on_builds(), gate=gate),
            Subscription(
                topics.snapshot, snapshots, self.on_snapshots(), max_fetch_delay_s=_SNAPSHOT_DELAY_S
            ),
        )

    def on_builds(self) -> Mapping[type[Event], Handler]:
        """The handlers of the build topic, by event type."""
        ends = (BuildFailed, BuildCancelled)
        return {
            **dict.fromkeys((ToolCallRequested, SleepRequested, BuildReady), self.on_build_moved),
            **dict.fromkeys(ends, self.on_build_ended),
        }

    def on_snapshots(self) -> Mapping[type[Event], Handler]:
        """The handlers of the snapshot topic, by event type."""
        return dict.fromkeys((SnapshotSaved, SnapshotFailed), self.on_snapshot)

    async def on_build_moved(self, event: RecordedEvent) -> None:
        await self._dispatcher.dispatch(event.subject)

    async def on_build_ended(self, event: RecordedEvent) -> None:
        await self._dispatcher.worker.stop_if_ended(event.subject)
        await self._dispatcher.dispatch(event.subject)

    async def on_snapshot(self, event: RecordedEvent) -> None:
        """Dispatch the build, because its sandbox may now be closed or paused.

        Does nothing after the snapshot of a checkpoint, because no sandbox is closed or paused then.
        """
        if isinstance(event.data, SnapshotSaved | SnapshotFailed) and event.data.reason != "checkpoint":
            await self._dispatcher.dispatch(event.subject)
