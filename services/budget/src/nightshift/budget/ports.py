"""What the use cases need beside the event log: the ledger of accounts and reservations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from nightshift.budget.domain.ledger import Account, Reservation, Settlement
from nightshift.eventlog.port import Append


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """What one transaction reads under the account's lock. `now` is the database's clock.

    For the lease that the caller named, `granted` says whether it has a reservation, and `request_waits` whether its
    request has no answer yet.
    """

    now: datetime
    account: Account | None
    granted: bool
    request_waits: bool


@dataclass(frozen=True, slots=True)
class LedgerChange:
    """A decision: the changed account, events to append, a reservation to open, and reservations to settle."""

    account: Account
    appends: Sequence[Append]
    opened: Reservation | None = None
    ended: Sequence[tuple[UUID, Settlement]] = ()


#: Returns the change to make, or None to change nothing. Pure: the ledger may call it again after a conflict.
Decide = Callable[[LedgerSnapshot], LedgerChange | None]


class Ledger(Protocol):
    """Stores accounts and reservations. Raises what the event log raises; nothing was written then."""

    async def transact(
        self, account_id: str, decide: Decide, *, lease_id: UUID | None = None
    ) -> LedgerChange | None:
        """Lock the account, decide, append and store in one transaction. Returns the change that was written.

        Returns None when `decide` returned None, or when the log has all events of the change already.
        """

    async def unsettled(self, build_id: str) -> Sequence[Reservation]:
        """Return the build's reservations that have not ended, oldest first."""

    async def find(self, lease_id: UUID) -> Reservation | None:
        """Return the unsettled reservation under this lease, or None."""

    async def account(self, account_id: str) -> Account | None:
        """Return the account as of the day on which it last changed, or None when it does not exist."""
