"""A build's sandbox: opened, restored, found lost, paused, closed. Every change is a fact with a derived id."""

from collections.abc import Callable
from dataclasses import dataclass

import structlog

from nightshift.contracts.events.sandbox import (
    SandboxClosed,
    SandboxLost,
    SandboxOpened,
    SandboxPaused,
    SandboxRestored,
)
from nightshift.eventlog.errors import EventIdReused, Fault, NotFound
from nightshift.eventlog.port import EventLog, NewEvent, build_stream
from nightshift.sandbox_gateway.domain.view import Snapshot, View
from nightshift.sandbox_gateway.failpoints import FailPoints
from nightshift.sandboxes.errors import HostileTree, SandboxGone
from nightshift.sandboxes.port import Sandbox, SandboxDriver
from nightshift.sandboxes.snapshots.manifest import tree_digest
from nightshift.sandboxes.snapshots.store import SnapshotStore
from nightshift.sandboxes.snapshots.transfer import restore

_log = structlog.get_logger(__name__)

#: The project's snapshots.
Stores = Callable[[str], SnapshotStore]


class Moved(Exception):
    """The log is not what the view says any more: fold again."""


@dataclass(frozen=True, slots=True)
class Boxes:
    log: EventLog
    driver: SandboxDriver
    stores: Stores
    fail: FailPoints

    async def ready(self, view: View) -> Sandbox:
        """The sandbox with the workspace it must begin with. Raises SandboxGone when the one in the view is gone."""
        if view.box is None:
            return await self._open(view)
        sandbox = await self.driver.connect(view.box.sandbox_id)
        if not view.box.restored and view.snapshot is not None:
            await self._restore(view, sandbox, view.snapshot)
        return sandbox

    async def _open(self, view: View) -> Sandbox:
        if view.accepted_id is None:
            raise Fault(f"build {view.build_id} has tool calls but was never accepted")
        generation = view.generations
        sandbox = await self.driver.create(
            view.build_id, generation=generation, metadata={"project": view.project_id}
        )
        self.fail.reach("after_create")
        opened = SandboxOpened(sandbox_id=sandbox.id, driver=sandbox.driver, generation=generation)
        try:
            await self.append(view, NewEvent(opened, view.accepted_id, index=generation))
        except EventIdReused:
            await sandbox.kill()  # another gateway opened this generation
            raise Moved from None
        self.fail.reach("after_open")
        if view.snapshot is not None:
            raise Moved  # restored on the next look, as after a crash here
        return sandbox

    async def _restore(self, view: View, sandbox: Sandbox, snapshot: Snapshot) -> None:
        if view.box is None:
            raise Moved
        try:
            done = await restore(sandbox, self.stores(view.project_id), snapshot.key)
            restored = SandboxRestored(
                sandbox_id=sandbox.id,
                from_snapshot=snapshot.key,
                tree_digest=done.tree_digest,
                files=done.files,
                healed=done.healed,
                lost=done.lost,
            )
        except (NotFound, HostileTree) as error:
            _log.error("snapshot cannot be used", build_id=view.build_id, key=snapshot.key, error=str(error))
            restored = SandboxRestored(
                sandbox_id=sandbox.id,
                from_snapshot=snapshot.key,
                tree_digest=tree_digest(()),
                files=0,
                healed=0,
                lost=(".",),
            )
        self.fail.reach("after_restore")
        try:
            await self.append(view, NewEvent(restored, view.box.opened_id))
        except EventIdReused:
            raise Moved from None

    def lost(self, view: View, error: SandboxGone) -> NewEvent:
        """The fact that the view's sandbox is gone."""
        if view.box is None:
            raise Moved
        return NewEvent(SandboxLost(sandbox_id=view.box.sandbox_id, detail=str(error)), view.box.opened_id)

    async def close(self, view: View) -> None:
        """End the sandbox for the reason in the view; that it is gone already is no error."""
        if view.box is None or view.to_close is None:
            return
        reason, cause = view.to_close
        await self.driver.kill(view.box.sandbox_id)
        self.fail.reach("after_kill")
        closed = SandboxClosed(sandbox_id=view.box.sandbox_id, reason=reason)
        await self.append(view, NewEvent(closed, cause))

    async def pause(self, view: View) -> None:
        """Keep the sandbox over a sleep whose snapshot failed."""
        if view.box is None or view.to_pause is None:
            return
        sandbox = await self.driver.connect(view.box.sandbox_id)
        await sandbox.pause()
        paused = SandboxPaused(sandbox_id=view.box.sandbox_id, reason="snapshot_failed")
        await self.append(view, NewEvent(paused, view.to_pause))

    async def append(self, view: View, *events: NewEvent) -> None:
        await self.log.append(build_stream(view.build_id), events)
