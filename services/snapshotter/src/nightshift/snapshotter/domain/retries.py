"""How often a failing snapshot is tried, when trying ends, and which failures the log tells."""

from dataclasses import dataclass, field

from nightshift.contracts.events.snapshot import SnapshotReason
from nightshift.eventlog.backoff import Backoff


@dataclass(frozen=True, slots=True)
class SnapshotRetries:
    """The rules of trying again. `pre_sleep_attempts`: after these the gateway pauses the sandbox with its files."""

    pre_sleep_attempts: int = 5
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.5, cap_s=30.0))

    def gives_up(self, reason: SnapshotReason, attempt: int) -> bool:
        """Return whether the failure of this attempt is final.

        A later checkpoint replaces a failed one. Nothing replaces the snapshot of an end: it is tried for as long as
        its sandbox exists.
        """
        if reason == "completion":
            return False
        return reason == "checkpoint" or attempt >= self.pre_sleep_attempts

    def is_told(self, attempt: int) -> bool:
        """Return whether the log tells this failure: attempts 1, 2, 4, 8…, so that a long outage writes few events."""
        return attempt & (attempt - 1) == 0
