"""Opens, restores, pauses, closes and replaces the sandbox of a build. Appends an event for every change."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import structlog

from nightshift.contracts.events.sandbox import (
    SandboxClosed,
    SandboxLost,
    SandboxOpened,
    SandboxPaused,
    SandboxRestored,
)
from nightshift.eventlog.errors import EventIdReused, Fault, NotFound, Transient
from nightshift.eventlog.port import EventLog, NewEvent, build_stream
from nightshift.sandbox_gateway.domain.sandbox_state import OpenSandbox, SandboxState, StoredSnapshot
from nightshift.sandbox_gateway.ports import SnapshotStores
from nightshift.sandbox_gateway.usecases.failpoints import FailPoints
from nightshift.sandbox_gateway.usecases.network import NetworkPolicy
from nightshift.sandbox_gateway.usecases.stall_reporter import StallReporter
from nightshift.sandboxes.errors import HostileTree, SandboxGone, SandboxHung
from nightshift.sandboxes.port import Sandbox, SandboxDriver
from nightshift.sandboxes.snapshots.manifest import tree_digest
from nightshift.sandboxes.snapshots.restore import named, restore

_log = structlog.get_logger(__name__)
#: After so many requests without an answer, a sandbox counts as lost.
_MOST_HUNG = 3


class StateOutdated(Exception):
    """The log has newer events than the state. The caller must read the state again and decide again."""


@dataclass(frozen=True, slots=True)
class SandboxLifecycle:
    log: EventLog
    driver: SandboxDriver
    stores: SnapshotStores
    stalls: StallReporter
    fail: FailPoints
    network: NetworkPolicy
    preview_s: float = 86_400.0
    _hung: Counter[str] = field(default_factory=Counter, init=False)

    async def preview_expired(self, state: SandboxState) -> bool:
        """Return whether a finished build's sandbox must be closed, because its preview is no longer used.

        That is so when `preview_s` seconds have passed since the build became ready and since the last visit of the
        preview.
        """
        if state.sandbox is None or state.ready_since is None or state.completion is None:
            return False
        life, now = timedelta(seconds=self.preview_s), datetime.now(UTC)
        if now < state.ready_since + life:
            return False
        visited = await self.driver.visited_at(state.sandbox.sandbox_id)
        return visited is None or now >= visited + life

    def count_hung(self, state: SandboxState, error: SandboxHung) -> SandboxGone | None:
        """Count a request that the sandbox did not answer. Returns None after the first ones in a row.

        After several in a row, returns a SandboxGone error: the caller must record the sandbox as lost.
        """
        if state.sandbox is None:
            return None
        sandbox_id = state.sandbox.sandbox_id
        self._hung[sandbox_id] += 1
        if self._hung[sandbox_id] < _MOST_HUNG:
            return None
        del self._hung[sandbox_id]
        return SandboxGone(f"sandbox {sandbox_id} left {_MOST_HUNG} requests without an answer: {error}")

    async def ready(self, state: SandboxState) -> Sandbox:
        """Return the build's sandbox with the files of the newest snapshot restored. Opens a sandbox when there is
        none.

        Raises SandboxGone when the sandbox no longer exists, and StateOutdated when the log must be read again first.
        """
        async with self.stalls.watch(state):
            if state.sandbox is None:
                return await self._open(state)
            rules = self.network.rules(state)
            sandbox = await self.driver.connect(state.sandbox.sandbox_id, network=rules)
            if await _is_older_state(sandbox, state.sandbox):
                await self._replace_older(state, sandbox)
            if not state.sandbox.restored and state.snapshot is not None:
                await self._restore(state, sandbox, state.snapshot)
            return sandbox

    async def _replace_older(self, state: SandboxState, sandbox: Sandbox) -> NoReturn:
        """Kill a sandbox that the provider resumed in a state from before its pause. Nothing is lost, because no call
        has begun since it resumed.

        Raises StateOutdated, so that the next step opens a sandbox with the files of the newest snapshot.
        """
        error = SandboxGone(f"sandbox {sandbox.id} was resumed in an older state")
        await self.append(state, self.lost(state, error))
        await self.discard(state)
        raise StateOutdated

    async def _open(self, state: SandboxState) -> Sandbox:
        if state.accepted_id is None:
            raise Fault(f"build {state.build_id} has tool calls but was never accepted")
        generation = state.generations
        sandbox = await self.driver.create(
            state.build_id,
            generation=generation,
            metadata={"project": state.project_id},
            network=self.network.rules(state),
        )
        self.fail.reach("after_create")
        opened = SandboxOpened(sandbox_id=sandbox.id, driver=sandbox.driver, generation=generation)
        try:
            await self.append(state, NewEvent(opened, state.accepted_id, index=generation))
        except EventIdReused:
            await sandbox.kill()  # another gateway has opened this generation of the sandbox
            raise StateOutdated from None
        self.fail.reach("after_open")
        if state.snapshot is not None:
            raise StateOutdated  # the next step restores the snapshot, as it would after a crash here
        return sandbox

    async def _restore(self, state: SandboxState, sandbox: Sandbox, snapshot: StoredSnapshot) -> None:
        if state.sandbox is None:
            raise StateOutdated
        try:
            done = await restore(sandbox, self.stores(state.project_id), snapshot.key)
            lost, differs = set(done.lost), named(done.differs)
            restored = SandboxRestored(
                sandbox_id=sandbox.id,
                from_snapshot=snapshot.key,
                tree_digest=done.tree_digest,
                files=done.files,
                healed=done.healed,
                lost=tuple(one.path for one in differs if one.path in lost),
                lost_count=len(lost) or None,
                differs=differs or None,
            )
        except (NotFound, HostileTree) as error:
            _log.error("snapshot.refused", build_id=state.build_id, key=snapshot.key, error=str(error))
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
            await self.append(state, NewEvent(restored, state.sandbox.opened_id))
        except EventIdReused:
            raise StateOutdated from None

    def lost(self, state: SandboxState, error: SandboxGone) -> NewEvent:
        """Return the event `sandbox.lost` for the state's sandbox.

        Raises StateOutdated when the state has no sandbox.
        """
        if state.sandbox is None:
            raise StateOutdated
        fact = SandboxLost(sandbox_id=state.sandbox.sandbox_id, detail=str(error))
        return NewEvent(fact, state.sandbox.opened_id)

    async def discard(self, state: SandboxState) -> None:
        """Kill a sandbox that the log records as lost, because it may still run processes.

        When the provider does not answer, only writes a log line: the sweeper kills the sandbox later.
        """
        if state.sandbox is None:
            return
        try:
            await self.driver.kill(state.sandbox.sandbox_id)
        except Transient as error:
            _log.warning("sandbox.not_ended", sandbox_id=state.sandbox.sandbox_id, error=str(error))

    async def close(self, state: SandboxState) -> None:
        """Kill the sandbox and append sandbox.closed. Does nothing without a sandbox.

        The caller closes a sandbox after the snapshot of a sleep or of an end, or when its preview has expired.
        """
        if state.sandbox is None:
            return
        reason, cause = state.to_close or ("preview_expired", state.sandbox.opened_id)
        async with self.stalls.watch(state):
            await self.driver.kill(state.sandbox.sandbox_id)
        self.fail.reach("after_kill")
        closed = SandboxClosed(sandbox_id=state.sandbox.sandbox_id, reason=reason)
        await self.append(state, NewEvent(closed, cause))

    async def pause(self, state: SandboxState) -> None:
        """Pause the sandbox during a sleep whose snapshot failed, and append sandbox.paused.

        Appends sandbox.lost instead when the sandbox no longer exists.
        """
        if state.sandbox is None or state.to_pause is None:
            return
        try:
            async with self.stalls.watch(state):
                sandbox = await self.driver.connect(state.sandbox.sandbox_id)
                await sandbox.pause()
        except SandboxGone as error:
            await self.append(state, self.lost(state, error))
            await self.discard(state)
            return
        paused = SandboxPaused(sandbox_id=state.sandbox.sandbox_id, reason="snapshot_failed")
        await self.append(state, NewEvent(paused, state.to_pause))

    async def append(self, state: SandboxState, *events: NewEvent) -> None:
        await self.log.append(build_stream(state.build_id), events)


async def _is_older_state(sandbox: Sandbox, known: OpenSandbox) -> bool:
    """Return whether a resumed sandbox is in a state from before its pause: it has no record of the last command that
    ended in it.

    A provider may resume an older state without an error (https://github.com/e2b-dev/E2B/issues/884).
    """
    if not known.resumed or known.last_command is None:
        return False
    return (await sandbox.wait_call(known.last_command, wait_s=0)).state == "unknown"
