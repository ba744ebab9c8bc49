"""Makes the snapshots that a build needs, and retries for as long as its files can still be saved."""

import random
from collections.abc import Callable
from uuid import UUID

import structlog

from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import EventIdReused, NightshiftError
from nightshift.eventlog.fold_cache import FoldCache
from nightshift.eventlog.port import EventLog, NewEvent, build_stream
from nightshift.sandboxes.errors import FileRefused, HostileTree, SandboxGone
from nightshift.sandboxes.snapshots.transfer import named
from nightshift.snapshotter.domain.retries import SnapshotRetries
from nightshift.snapshotter.domain.workspace import WantedSnapshot, Workspace, evolve
from nightshift.snapshotter.ports import WorkspaceCapture

_log = structlog.get_logger(__name__)

#: Characters of an error that `snapshot.failed` keeps.
_DETAIL = 2_000
#: After these errors no attempt can save the files. All others may pass, such as a full disk or a wrong key.
_HOPELESS = (SandboxGone, HostileTree, FileRefused)


class Snapshots:
    """The use case. `jitter` draws from 0 to 1 and spreads the attempts of many builds."""

    def __init__(
        self,
        log: EventLog,
        workspaces: WorkspaceCapture,
        retries: SnapshotRetries,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._event_log = log
        self._workspaces = workspaces
        self._retries = retries
        self._jitter = jitter
        self._builds = FoldCache(log, lambda _: Workspace(), evolve)
        # By build: the cause of its failing snapshot and the attempts, also those that the log does not record.
        self._failures: dict[str, tuple[UUID, int]] = {}

    async def make(self, build_id: str) -> float | None:
        """Make the snapshots that the build needs now, the newest of each kind.

        Returns None when nothing is needed any more, else the seconds after which to call it again. Only one call per
        build may run in a process. When two processes make the same snapshot, the log keeps one fact.
        """
        while True:
            state = await self._builds.read(build_id)
            wanted = state.next
            if wanted is None or state.sandbox_id is None:
                self._failures.pop(build_id, None)
                return None
            pause = await self._attempt(build_id, state, wanted, state.sandbox_id)
            if pause is not None:
                return pause

    async def _attempt(
        self, build_id: str, state: Workspace, wanted: WantedSnapshot, sandbox_id: str
    ) -> float | None:
        """Try once and append the result. Returns the seconds until the next attempt, or None when there is none."""
        try:
            captured = await self._workspaces.capture(
                build_id, wanted, project_id=state.project_id, sandbox_id=sandbox_id
            )
        except NightshiftError as error:
            return await self._note_failure(build_id, wanted, error)
        saved = SnapshotSaved(
            reason=wanted.reason,
            at_version=wanted.at_version,
            tree_digest=captured.tree_digest,
            files=captured.files,
            bytes=captured.bytes,
            uploaded_bytes=captured.uploaded_bytes,
            key=captured.key,
            skipped=named(captured.skipped) or None,
            skipped_count=len(captured.skipped) or None,
        )
        await self._append(build_id, wanted, saved)
        return None

    async def _note_failure(
        self, build_id: str, wanted: WantedSnapshot, error: NightshiftError
    ) -> float | None:
        cause, failures = self._failures.get(build_id, (wanted.cause, 0))
        attempt = max(failures if cause == wanted.cause else 0, wanted.attempts) + 1
        final = isinstance(error, _HOPELESS) or self._retries.gives_up(wanted.reason, attempt)
        _log.warning(
            "snapshot.failed",
            build_id=build_id,
            reason=wanted.reason,
            attempt=attempt,
            final=final,
            error=str(error),
        )
        if final or self._retries.is_recorded(attempt):
            fact = SnapshotFailed(
                reason=wanted.reason,
                at_version=wanted.at_version,
                detail=f"{type(error).__name__}: {error}"[:_DETAIL],
                attempt=attempt,
                final=final,
            )
            await self._append(build_id, wanted, fact, index=attempt)
        if final:
            return None
        self._failures[build_id] = wanted.cause, attempt
        return self._retries.backoff.delay(attempt, jitter=self._jitter())

    async def _append(self, build_id: str, wanted: WantedSnapshot, fact: Event, *, index: int = 0) -> None:
        try:
            await self._event_log.append(build_stream(build_id), [NewEvent(fact, wanted.cause, index)])
        except EventIdReused:
            _log.info("snapshot.made_by_another_replica", build_id=build_id, reason=wanted.reason)
