"""What the use cases need beside the event log: the ledger of accounts and reservations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from nightshift.budget.domain.ledger import Account, Reservation, Settlement
from nightshift.budget.domain.shares import BuildShare
from nightshift.eventlog.port import Append


@dataclass(frozen=True, slots=True)
class LedgerSnapshot:
    """What one transaction reads under the account's lock. `now` is the database's clock.

    For the lease that the caller named, `granted` says whether it has a reservation, and `request_waits` whether its
    request has no answer yet. `shares` are those of the account's builds that have not ended; empty without a lease.
    """

    now: datetime
    account: Account | None
    granted: bool
    request_waits: bool
    shares: Sequence[BuildShare] = ()


@dataclass(frozen=True, slots=True)
class LedgerChange:
    """A decision: the changed account, events to append, a reservation to open, and reservations to settle.

    `share` says what a build needs and whether it waits. What settled reservations spent is added to it by the ledger.
    """

    account: Account
    appends: Sequence[Append]
    opened: Reservation | None = None
    ended: Sequence[tuple[UUID, Settlement]] = ()
    share: BuildShare | None = None


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

    async def shares(self, account_id: str) -> Sequence[BuildShare]:
        """Return the shares of the account's builds that have not ended."""

    async def stop_waiting(self, build_id: str) -> None:
        """Note that the build does not want money now: it waits for a person or a provider."""

    async def end_build(self, build_id: str, outcome: str) -> None:
        """Note that the build has ended; `outcome` is the type of the event. Only the first end counts."""

    async def now(self) -> datetime:
        """Return the time of the ledger's clock."""

    async def account(self, account_id: str) -> Account | None:
        """Return the account as of the day on which it last changed, or None when it does not exist."""
