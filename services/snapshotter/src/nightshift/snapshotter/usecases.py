"""Making the snapshots a build waits for: the newest checkpoint best effort, sleeps and ends with patience."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from nightshift.contracts.events.snapshot import SnapshotFailed, SnapshotSaved
from nightshift.contracts.model import Event
from nightshift.eventlog.errors import EventIdReused, NightshiftError, Refused
from nightshift.eventlog.port import EventLog, NewEvent, build_stream
from nightshift.sandboxes.errors import SandboxGone
from nightshift.sandboxes.port import SandboxDriver
from nightshift.sandboxes.snapshots.store import SnapshotStore
from nightshift.sandboxes.snapshots.transfer import DEFAULT_EXCLUDE, Captured, capture
from nightshift.snapshotter.domain.view import View, Wanted, see

_log = structlog.get_logger(__name__)

#: Builds whose view is kept; another is folded again when it is needed.
_VIEWS = 2_000
_DETAIL = 2_000


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a snapshot that somebody waits for is tried, and the first pause between tries. Seconds."""

    attempts: int = 5
    first_pause_s: float = 0.5
    longest_pause_s: float = 8.0

    def pause(self, attempt: int) -> float:
        """After this many tries."""
        return min(self.longest_pause_s, self.first_pause_s * 2.0 ** (attempt - 1))


class Snapshots:
    """The use case, over the log, a driver of sandboxes and a store per project."""

    def __init__(
        self,
        log: EventLog,
        driver: SandboxDriver,
        store_of: Callable[[str], SnapshotStore],
        *,
        patience: Patience,
        exclude: tuple[str, ...] = DEFAULT_EXCLUDE,
    ) -> None:
        """`store_of` gives a project's store."""
        self._log_port = log
        self._driver = driver
        self._store_of = store_of
        self._patience = patience
        self._exclude = exclude
        self._views: OrderedDict[str, View] = OrderedDict()

    async def make(self, build_id: str) -> None:
        """Make every snapshot that this build waits for now, the newest only of each kind.

        One at a time per build: the caller sees to that in this process, and two processes agree on one event.
        """
        while True:
            view = await self._view(build_id)
            wanted = view.next
            if wanted is None:
                return
            if view.sandbox_id is None and wanted.reason == "checkpoint":
                return  # nothing was done in a sandbox yet, or it is gone: a later checkpoint asks again
            fact = await self._try(build_id, view, wanted)
            await self._append(build_id, wanted, fact)
            if isinstance(fact, SnapshotFailed) and not fact.final:
                await asyncio.sleep(self._patience.pause(fact.attempt))

    async def _try(self, build_id: str, view: View, wanted: Wanted) -> SnapshotSaved | SnapshotFailed:
        attempt = wanted.attempts + 1
        last = wanted.reason == "checkpoint" or attempt >= self._patience.attempts
        try:
            captured = await self._capture(build_id, view, wanted)
        except Refused as error:
            return _failed(wanted, attempt, error, final=True)
        except NightshiftError as error:
            return _failed(wanted, attempt, error, final=last)
        return SnapshotSaved(
            reason=wanted.reason,
            at_version=wanted.at_version,
            tree_digest=captured.tree_digest,
            files=captured.files,
            bytes=captured.bytes,
            uploaded_bytes=captured.uploaded_bytes,
            key=captured.key,
        )

    async def _capture(self, build_id: str, view: View, wanted: Wanted) -> Captured:
        if view.sandbox_id is None or view.project_id is None:
            raise SandboxGone("there is no sandbox to take it from")
        sandbox = await self._driver.connect(view.sandbox_id)
        return await capture(
            sandbox,
            self._store_of(view.project_id),
            build_id,
            at_version=wanted.at_version,
            reason=wanted.reason,
            exclude=self._exclude,
            exact=wanted.reason == "pre_sleep",
        )

    async def _append(self, build_id: str, wanted: Wanted, fact: Event) -> None:
        index = fact.attempt if isinstance(fact, SnapshotFailed) else 0
        try:
            await self._log_port.append(build_stream(build_id), [NewEvent(fact, wanted.cause, index)])
        except EventIdReused:
            _log.info("snapshot.made_by_another", build_id=build_id, reason=wanted.reason)

    async def _view(self, build_id: str) -> View:
        """The build up to now: what is known of it, and what the log has beyond that."""
        view = self._views.pop(build_id, View())
        async for event in self._log_port.read_stream(build_stream(build_id), from_version=view.version + 1):
            view = see(view, event)
        self._views[build_id] = view
        if len(self._views) > _VIEWS:
            self._views.popitem(last=False)
        return view


def _failed(wanted: Wanted, attempt: int, error: NightshiftError, *, final: bool) -> SnapshotFailed:
    _log.warning("snapshot.failed", reason=wanted.reason, attempt=attempt, final=final, error=str(error))
    return SnapshotFailed(
        reason=wanted.reason,
        at_version=wanted.at_version,
        detail=f"{type(error).__name__}: {error}"[:_DETAIL],
        attempt=attempt,
        final=final,
    )
