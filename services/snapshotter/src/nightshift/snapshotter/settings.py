"""The settings of the snapshotter, in addition to those of every service."""

from pydantic import Field

from nightshift.eventlog.backoff import Backoff
from nightshift.sandboxes.settings import SnapshotSettings
from nightshift.sandboxes.snapshots.rules import DEFAULT_EXCLUDE
from nightshift.servicekit.settings import Settings
from nightshift.snapshotter.domain.retries import SnapshotRetries


class SnapshotterSettings(SnapshotSettings, Settings):
    """Settings of the snapshotter. Times are in seconds."""

    snapshot_parallel: int = Field(8, ge=1)  # how many builds are saved at the same time
    # How often the snapshot before a sleep is tried. After the last attempt the sandbox is paused with its files.
    snapshot_attempts: int = Field(5, ge=1)
    # The pause after the first failed attempt. It doubles with each attempt.
    snapshot_first_pause_s: float = Field(0.5, gt=0)
    # The longest pause between two attempts.
    snapshot_longest_pause_s: float = Field(30.0, gt=0)
    snapshot_exclude: tuple[str, ...] = DEFAULT_EXCLUDE  # a JSON list of patterns as in .gitignore

    def retries(self) -> SnapshotRetries:
        """Return the object that decides when a failed snapshot is retried, by these settings."""
        backoff = Backoff(first_s=self.snapshot_first_pause_s, cap_s=self.snapshot_longest_pause_s)
        return SnapshotRetries(self.snapshot_attempts, backoff)
