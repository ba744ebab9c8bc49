"""Makes the snapshots that a build needs, and retries while the sandbox still has its files."""

import random
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from uuid import UUID

import structlog
from prometheus_client import Histogram

from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import EventIdReused, NightshiftError
from nightshift.eventlog.fold_cache import FoldCache
from nightshift.eventlog.port import EventLog, NewEvent, build_stream
from nightshift.sandboxes.errors import FileRefused, HostileTree, SandboxGone
from nightshift.sandboxes.snapshots.restore import named
from nightshift.servicekit import tracing
from nightshift.snapshotter.domain.retries import SnapshotRetries
from nightshift.snapshotter.domain.workspace import WantedSnapshot, Workspace, evolve
from nightshift.snapshotter.ports import WorkspaceCapture

_log = structlog.get_logger(__name__)

_SECONDS = Histogram(
    "nightshift_snapshot_seconds",
    "The time of one attempt to save a workspace.",
    ["reason"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)

#: How many characters of an error `snapshot.failed` contains.
_DETAIL = 2_000
#: How many of the files that changed while they were read `snapshot.saved` names.
_TORN = 100
#: After these errors the files can never be saved. Other errors may pass, such as a full disk or a wrong key.
_HOPELESS = (SandboxGone, HostileTree, FileRefused)


@dataclass(eq=False)
class Snapshots:
    """Makes the snapshots of builds. `jitter` returns a number from 0 to 1 that varies the delays of retries."""

    log: EventLog
    workspaces: WorkspaceCapture
    retries: SnapshotRetries
    _: KW_ONLY
    jitter: Callable[[], float] = random.random
    # Build id → the cause of its failing snapshot and the number of failed attempts. The log records only some of them.
    _failures: dict[str, tuple[UUID, int]] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._builds = FoldCache(self.log, lambda _: Workspace(), evolve)

    async def make(self, build_id: str) -> float | None:
        """Make all snapshots that a build needs now. Returns None when none is left to make.

        When a snapshot failed, returns the seconds after which the caller must call `make` again.

        One process must not run `make` twice at the same time for a build. When two processes make the same snapshot,
        only one event is appended.
        """
        while True:
            state = await self._builds.read(build_id)
            wanted = state.next
            if wanted is None or state.sandbox_id is None:
                self._failures.pop(build_id, None)
                return None
            for earlier in await self._held(state, state.sandbox_id):
                await self._attempt(build_id, state, earlier, state.sandbox_id)
            pause = await self._attempt(build_id, state, wanted, state.sandbox_id)
            if pause is not None:
                return pause

    async def _held(self, state: Workspace, sandbox_id: str) -> list[WantedSnapshot]:
        """Return the older checkpoints without a snapshot (`passed_over`) of which the sandbox still has a copy of the
        files, oldest first.

        Returns an empty list when the sandbox does not answer.
        """
        if not state.passed_over:
            return []
        try:
            held = await self.workspaces.held(sandbox_id)
        except NightshiftError:  # the next attempt meets the same error and records it
            return []
        return [one for one in state.passed_over if one.at_version in held]

    async def _attempt(
        self, build_id: str, state: Workspace, wanted: WantedSnapshot, sandbox_id: str
    ) -> float | None:
        """Try to make a snapshot once and append the result.

        Returns the seconds until the next attempt. Returns None when no further attempt is needed.
        """
        attributes = {"gen_ai.conversation.id": build_id, "nightshift.snapshot.reason": wanted.reason}
        with (
            _SECONDS.labels(wanted.reason).time(),
            tracing.span("snapshot workspace", parent=wanted.traceparent, attributes=attributes) as span,
        ):
            pause = await self._save(build_id, state, wanted, sandbox_id)
            if pause is not None:
                span.fail("retried")
        return pause

    async def _save(
        self, build_id: str, state: Workspace, wanted: WantedSnapshot, sandbox_id: str
    ) -> float | None:
        try:
            captured = await self.workspaces.capture(
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
            consistency=captured.consistency,
            torn=captured.torn[:_TORN] or None,
        )
        for earlier in state.passed_over:
            if earlier.at_version < wanted.at_version and earlier.writes == wanted.writes:
                # No tool call between the two checkpoints can have written, so the files are those of the earlier one
                # too.
                same = saved.model_copy(
                    update={"reason": earlier.reason, "at_version": earlier.at_version, "uploaded_bytes": 0}
                )
                await self._append(build_id, earlier, same)
        await self._append(build_id, wanted, saved)
        if captured.staged:
            await self._acknowledge(build_id, sandbox_id, wanted.at_version)
        return None

    async def _acknowledge(self, build_id: str, sandbox_id: str, at_version: int) -> None:
        try:
            await self.workspaces.stored(sandbox_id, at_version)
        except NightshiftError as error:  # the next snapshot then lists all files
            _log.info("snapshot.not_acknowledged", build_id=build_id, error=str(error))

    async def _note_failure(
        self, build_id: str, wanted: WantedSnapshot, error: NightshiftError
    ) -> float | None:
        cause, failures = self._failures.get(build_id, (wanted.cause, 0))
        attempt = max(failures if cause == wanted.cause else 0, wanted.attempts) + 1
        final = isinstance(error, _HOPELESS) or self.retries.gives_up(wanted.reason, attempt)
        _log.warning(
            "snapshot.failed",
            build_id=build_id,
            reason=wanted.reason,
            attempt=attempt,
            final=final,
            error=str(error),
        )
        if final or self.retries.is_recorded(attempt):
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
        return self.retries.backoff.delay(attempt, jitter=self.jitter())

    async def _append(self, build_id: str, wanted: WantedSnapshot, fact: Event, *, index: int = 0) -> None:
        try:
            await self.log.append(build_stream(build_id), [NewEvent(fact, wanted.cause, index)])
        except EventIdReused:
            _log.info("snapshot.made_by_another_replica", build_id=build_id, reason=wanted.reason)
