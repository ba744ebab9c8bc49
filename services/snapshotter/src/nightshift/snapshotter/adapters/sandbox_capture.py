"""Copies a workspace from its sandbox into the snapshot store of the project."""

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

from nightshift.sandboxes.port import SandboxDriver
from nightshift.sandboxes.snapshots.capture import Captured, capture
from nightshift.sandboxes.snapshots.rules import DEFAULT_EXCLUDE
from nightshift.sandboxes.snapshots.store import SnapshotStore
from nightshift.snapshotter.domain.workspace import WantedSnapshot


@dataclass(frozen=True, slots=True)
class SandboxCapture:
    """The WorkspaceCapture port on a sandbox driver. `store_of` returns the snapshot store of a project."""

    driver: SandboxDriver
    store_of: Callable[[str], SnapshotStore]
    _: KW_ONLY
    exclude: tuple[str, ...] = DEFAULT_EXCLUDE

    async def capture(
        self, build_id: str, wanted: WantedSnapshot, *, project_id: str, sandbox_id: str
    ) -> Captured:
        """Store the files of the workspace in the snapshot store of the project, and return the stored snapshot.

        The snapshot before a sleep must be exact, which is possible because no tool call runs then.
        """
        return await capture(
            await self.driver.connect(sandbox_id),
            self.store_of(project_id),
            build_id,
            at_version=wanted.at_version,
            reason=wanted.reason,
            exclude=self.exclude,
            exact=wanted.reason == "pre_sleep",
            fresh=wanted.fresh,
        )

    async def held(self, sandbox_id: str) -> Sequence[int]:
        """Return the checkpoints of which the sandbox still has a copy of the files, by their stream versions."""
        return await (await self.driver.connect(sandbox_id)).held()

    async def stored(self, sandbox_id: str, at_version: int) -> None:
        """Tell the sandbox that the log has the snapshot of the checkpoint `at_version`. The sandbox may then delete
        its copy of that checkpoint's files.
        """
        await (await self.driver.connect(sandbox_id)).stored(at_version)
