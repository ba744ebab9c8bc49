"""Decides when a failed snapshot is retried, when its failure is final, and which failures the log records."""

from dataclasses import dataclass, field

from nightshift.contracts.events.snapshot import SnapshotReason
from nightshift.eventlog.backoff import Backoff


@dataclass(frozen=True, slots=True)
class SnapshotRetries:
    """Decides about retries of failed snapshots.

    After `pre_sleep_attempts` failed snapshots before a sleep it gives up. The sandbox gateway then pauses the
    sandbox, which keeps the files.
    """

    pre_sleep_attempts: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.5, cap_s=30.0))

    def gives_up(self, reason: SnapshotReason, attempt: int) -> bool:
        """Return whether the snapshotter stops trying after this failed attempt. `attempt` counts from 1.

        It gives up a checkpoint at once, because a later checkpoint replaces it. It never gives up the snapshot of an
        ended build, because nothing replaces that.
        """
        if reason == "completion":
            return False
        return reason == "checkpoint" or attempt >= self.pre_sleep_attempts

    def is_recorded(self, attempt: int) -> bool:
        """Return whether the log records this failure: attempts 1, 2, 4, 8…, so that an outage adds few events."""
        return attempt & (attempt - 1) == 0
