"""Decides when a failed snapshot is retried, when its failure is final, and which failures the log records."""

from dataclasses import dataclass, field

from nightshift.contracts.events.snapshot import SnapshotReason
from nightshift.eventlog.backoff import Backoff


@dataclass(frozen=True, slots=True)
class SnapshotRetries:
    """Decides about retries. After `pre_sleep_attempts` failures before a sleep, the gateway pauses the sandbox."""

    pre_sleep_attempts: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.5, cap_s=30.0))

    def gives_up(self, reason: SnapshotReason, attempt: int) -> bool:
        """Return whether the failure of this attempt is final.

        A later checkpoint replaces a failed one. Nothing replaces the snapshot of an end.
        """
        if reason == "completion":
            return False
        return reason == "checkpoint" or attempt >= self.pre_sleep_attempts

    def is_recorded(self, attempt: int) -> bool:
        """Return whether the log records this failure: attempts 1, 2, 4, 8…, so that an outage writes few events."""
        return attempt & (attempt - 1) == 0
