"""Captures a workspace through the sandbox driver into the project's snapshot store."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass

from nightshift.sandboxes.port import SandboxDriver
from nightshift.sandboxes.snapshots.store import SnapshotStore
from nightshift.sandboxes.snapshots.transfer import DEFAULT_EXCLUDE, Captured, capture
from nightshift.snapshotter.domain.workspace import WantedSnapshot


@dataclass(frozen=True, slots=True)
class SandboxCapture:
    """Implements WorkspaceCapture. `store_of` returns the snapshot store of a project."""

    driver: SandboxDriver
    store_of: Callable[[str], SnapshotStore]
    _: KW_ONLY
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE

    async def capture(
        self, build_id: str, wanted: WantedSnapshot, *, project_id: str, sandbox_id: str
    ) -> Captured:
        """Store the workspace. Before a sleep nothing writes, so the stored tree is exact."""
        return await capture(
            await self.driver.connect(sandbox_id),
            self.store_of(project_id),
            build_id,
            at_version=wanted.at_version,
            reason=wanted.reason,
            exclude=self.exclude,
            exact=wanted.reason == "pre_sleep",
        )
