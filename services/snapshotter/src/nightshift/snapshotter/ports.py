"""The port through which the use case saves a workspace."""

from collections.abc import Sequence
from typing import Protocol

from nightshift.sandboxes.snapshots.capture import Captured
from nightshift.snapshotter.domain.workspace import WantedSnapshot


class WorkspaceCapture(Protocol):
    """Copies the workspace of a sandbox into the project's snapshot store."""

    async def capture(
        self, build_id: str, wanted: WantedSnapshot, *, project_id: str, sandbox_id: str
    ) -> Captured:
        """Store the files of the workspace in the snapshot store of the project, and return the stored snapshot.

        Raises SandboxGone when the sandbox no longer exists, and HostileTree when the files break a rule. Raises
        Transient or ConfigurationError when the sandbox or the store does not answer.
        """

    async def held(self, sandbox_id: str) -> Sequence[int]:
        """Return the checkpoints of which the sandbox still has a copy of the files, by their stream versions. Raises
        the errors of `capture`.
        """

    async def stored(self, sandbox_id: str, at_version: int) -> None:
        """Tell the sandbox that the log has the snapshot of the checkpoint `at_version`. The sandbox may then delete
        its copy of that checkpoint's files. Raises the errors of `capture`.
        """
