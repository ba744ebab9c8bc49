"""What the use cases need beside the event log: a capture of a workspace."""

from typing import Protocol

from nightshift.sandboxes.snapshots.transfer import Captured
from nightshift.snapshotter.domain.workspace import WantedSnapshot


class WorkspaceCapture(Protocol):
    """Copies the workspace of a sandbox into the project's snapshot store."""

    async def capture(
        self, build_id: str, wanted: WantedSnapshot, *, project_id: str, sandbox_id: str
    ) -> Captured:
        """Store the workspace and return where it is.

        Raises SandboxGone when the sandbox does not exist any more, HostileTree when its tree breaks a rule, and
        Transient or ConfigurationError when the sandbox or the store does not answer.
        """
