"""The ledger as the use cases see it: one transaction reads the books, decides, appends and writes the books again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from nightshift.budget.domain.ledger import Account, Reservation, Settlement
from nightshift.eventlog.port import Append


@dataclass(frozen=True, slots=True)
class HeldReservation:
    """A reservation as stored. `granted_event` is the id of its `budget.granted`; `settled` once it has ended."""

    reservation: Reservation
    granted_event: UUID
    settled: bool


@dataclass(frozen=True, slots=True)
class Books:
    """What one transaction sees, under the account's lock. `now` is the database's clock.

    `held` and `request_waits` are about the lease that was asked for: its reservation, and whether its request has
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
class Step:
    """What a decision wants: the account as it is then, the events that say so, and what happens to a reservation."""

    account: Account
    appends: Sequence[Append]
    opened: Opening | None = None
    ended: tuple[UUID, Settlement] | None = None


#: From the books to a step, or none when there is nothing to do. Pure; it may be called again after a conflict.
Decide = Callable[[Books], Step | None]


class Ledger(Protocol):
    """Raises what the log raises; then nothing was written. A step whose events were all in the log writes nothing."""

    async def transact(self, account_id: str, decide: Decide, *, lease_id: UUID | None = None) -> Step | None:
        """Decide under the account's lock; give the step that was written, or none."""
        ...

    async def unsettled(self, build_id: str) -> Sequence[HeldReservation]:
        """The build's reservations that have not ended, oldest first."""
        ...

    async def find(self, lease_id: UUID) -> HeldReservation | None: ...

    async def account(self, account_id: str) -> Account | None: ...
