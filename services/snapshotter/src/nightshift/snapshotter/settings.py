"""What the snapshotter reads from its environment."""

from pydantic import Field

from nightshift.sandboxes.settings import SnapshotSettings
from nightshift.sandboxes.snapshots.transfer import DEFAULT_EXCLUDE
from nightshift.servicekit.settings import Settings
from nightshift.snapshotter.usecases import Patience


class SnapshotterSettings(SnapshotSettings, Settings):
    """Times in seconds."""

    snapshot_parallel: int = Field(8, ge=1)  # builds at once
    snapshot_attempts: int = Field(5, ge=1)  # of a snapshot that a sleep or an end waits for
    snapshot_first_pause_s: float = Field(0.5, gt=0)
    snapshot_longest_pause_s: float = Field(8.0, gt=0)
    snapshot_exclude: tuple[str, ...] = DEFAULT_EXCLUDE  # JSON list; names or patterns of names

    def patience(self) -> Patience:
        """The use case's part of it."""
        return Patience(self.snapshot_attempts, self.snapshot_first_pause_s, self.snapshot_longest_pause_s)
