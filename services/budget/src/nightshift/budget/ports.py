"""The port of the ledger: accounts and reservations."""

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
    """What a transaction reads from the database before it decides about an account. `now` is the database's time.

    `granted` says whether the reservation with the caller's `lease_id` exists, and `request_waits` whether the request
    for it has no answer yet. `shares` contains the account's builds that have not ended. It is empty when the caller
    gave no `lease_id`.
    """

    now: datetime
    account: Account | None
    granted: bool
    request_waits: bool
    shares: Sequence[BuildShare] = ()


@dataclass(frozen=True, slots=True)
class LedgerChange:
    """A decision: the changed account, the events to append, and the reservations to open and to end.

    `share` is the new share of the build that asked for money, or None when no share changes. The ledger itself adds to
    the stored shares what was spent of the ended reservations.
    """

    account: Account
    appends: Sequence[Append]
    opened: Reservation | None = None
    ended: Sequence[tuple[UUID, Settlement]] = ()
    share: BuildShare | None = None


#: Returns the change to make, or None to change nothing. Must be pure, because the ledger may call it again after a
#: conflict.
Decide = Callable[[LedgerSnapshot], LedgerChange | None]


class Ledger(Protocol):
    """Stores accounts and reservations. After an error of the event log, nothing has been written."""

    async def transact(
        self, account_id: str, decide: Decide, *, lease_id: UUID | None = None
    ) -> LedgerChange | None:
        """Lock the account, call `decide`, append the events and store the change, all in one transaction.

        When the decision is about one reservation, `lease_id` is its id, and the snapshot tells `decide` about it.
        Returns the change that was written. Returns None when `decide` returned None, or when the log already had all
        events of the change.
        """

    async def unsettled(self, build_id: str) -> Sequence[Reservation]:
        """Return the build's reservations that are not settled, oldest first."""

    async def find(self, lease_id: UUID) -> Reservation | None:
        """Return the reservation with the id `lease_id`, or None when there is none or it is settled."""

    async def shares(self, account_id: str) -> Sequence[BuildShare]:
        """Return the shares of the account's builds that have not ended."""

    async def stop_waiting(self, build_id: str) -> None:
        """Record that the build does not wait for money now, because it waits for a person or a provider."""

    async def end_build(self, build_id: str, outcome: str) -> None:
        """Record that the build has ended. `outcome` is the type of the build's last event.

        Only the first call for a build counts.
        """

    async def now(self) -> datetime:
        """Return the time of the ledger's clock."""

    async def account(self, account_id: str) -> Account | None:
        """Return the account as of the day of its last change, or None when it does not exist."""
