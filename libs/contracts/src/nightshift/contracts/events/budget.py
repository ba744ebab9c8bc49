"""The budget service's facts on a build's stream: grants, denials, settlements and wakes."""

from collections.abc import Sequence
from typing import ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime

from nightshift.contracts.model import Event, Id, Microdollars, Owner, Pending, PendingKind, Word


class _BudgetFact(Event):
    owner: ClassVar[Owner] = Owner.BUDGET


class BudgetGranted(_BudgetFact, type="budget.granted"):
    """Reserves `amount_microusd` of the account's `day` for this build, until `expires_at` by the database's clock.

    `lease_id` is the id of this grant. Afterwards the account has `left_today_microusd` left of `day_limit_microusd`,
    which older events lack.
    """

    lease_id: UUID
    account_id: Id
    day: Word
    amount_microusd: Microdollars
    left_today_microusd: Microdollars
    day_limit_microusd: Microdollars | None = None
    expires_at: AwareDatetime

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.BUDGET_REQUEST, str(self.lease_id), opens=False),
            Pending(PendingKind.RESERVATION, str(self.lease_id), opens=True, due_at=self.expires_at),
        )


class BudgetDenied(_BudgetFact, type="budget.denied"):
    """Denies the money that the build requested with `lease_id`. The account's next day begins at `refresh_at`.

    `day_limit_microusd` is the most that the account can pay today or on its next day if nothing else is spent. A build
    whose next call may cost more would sleep in vain. `first_build_id` is set when the account has money left, but
    another of its builds gets it first.

    This event may follow the end of the build, because the build can end while its request is being answered.
    """

    after_close: ClassVar[bool] = True

    lease_id: UUID
    account_id: Id
    day: Word
    left_today_microusd: Microdollars
    refresh_at: AwareDatetime
    day_limit_microusd: Microdollars | None = None
    first_build_id: Id | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.BUDGET_REQUEST, str(self.lease_id), opens=False),)


class BudgetSettled(_BudgetFact, type="budget.settled"):
    """Ends the grant `lease_id`, once: `posted_microusd` was spent, and `released_microusd` is free again.

    The outcome `overrun` means that the provider billed more than was reserved. All of it is posted, and the next day
    has less. `estimated_microusd` is the part of `posted_microusd` that is a worst case, because the provider's answer
    was lost.
    """

    after_close: ClassVar[bool] = True

    lease_id: UUID
    account_id: Id
    day: Word
    outcome: Literal["posted", "voided", "expired", "overrun"]
    reserved_microusd: Microdollars
    posted_microusd: Microdollars
    released_microusd: Microdollars
    estimated_microusd: Microdollars | None = None

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.RESERVATION, str(self.lease_id), opens=False),)


class WakeRequested(_BudgetFact, type="wake.requested"):
    """Wakes a sleeping build: its account has money again, its provider may answer again, or a person asked for it.

    Also ends the wait of a build whose next call was too expensive for a whole day, once a day has enough money.
    """

    reason: Literal["refresh", "top_up", "person", "provider"]

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.SLEEPER, subject, opens=False),
            Pending(PendingKind.WAITING, subject, opens=False),
            Pending(PendingKind.WAKE, subject, opens=True),
        )


BudgetEvent = BudgetGranted | BudgetDenied | BudgetSettled | WakeRequested
