"""What the use cases need beside the event log: the ledger of accounts and reservations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from nightshift.budget.domain.ledger import Account, Reservation, Settlement
from nightshift.eventlog.port import Append


@dataclass(frozen=True, slots=True)
class HeldReservation:
    """A stored reservation. `granted_event` is the id of its `budget.granted`; `settled` is true once it ended."""

    reservation: Reservation
    granted_event: UUID
    settled: bool


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """What one transaction reads under the account's lock. `now` is the database's clock.

    `held` and `request_waits` are about the lease that the caller named: its reservation, and whether its request has
    neither been granted nor denied.
    """

    now: datetime
    account: Account | None
    held: HeldReservation | None
    request_waits: bool


@dataclass(frozen=True, slots=True)
class Opening:
    """A reservation to store. It expires at `expires_at`, by the database's clock."""

    reservation: Reservation
    granted_event: UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LedgerChange:
    """A decision: the changed account, the events to append, a reservation to open, and reservations that end."""

    account: Account
    appends: Sequence[Append]
    opened: Opening | None = None
    ended: Sequence[tuple[UUID, Settlement]] = ()


#: Returns the change to make, or None to change nothing. Pure: the ledger may call it again after a conflict.
Decide = Callable[[LedgerSnapshot], LedgerChange | None]


class Ledger(Protocol):
    """Accounts and reservations, written in the transaction that appends the events about them.

    Raises what the event log raises; then nothing was written.
    """

    async def transact(
        self, account_id: str, decide: Decide, *, lease_id: UUID | None = None
    ) -> LedgerChange | None:
        """Lock the account, decide, append and store. Returns the change that was written.

        Returns None when `decide` returned None, or when the log has all events of the change already.
        """

    async def unsettled(self, build_id: str) -> Sequence[HeldReservation]:
        """Return the build's reservations that have not ended, oldest first."""

    async def find(self, lease_id: UUID) -> HeldReservation | None:
        """Return the reservation, or None when nothing was granted under this lease."""

    async def account(self, account_id: str) -> Account | None:
        """Return the account, on the day on which it last changed, or None when it does not exist."""
