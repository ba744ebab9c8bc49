"""The budget service's facts on a build's stream: grants, denials, settlements and wakes."""

from collections.abc import Sequence
from typing import ClassVar, Literal
from uuid import UUID

from pydantic import AwareDatetime

from nightshift.contracts.model import Event, Id, Microdollars, Owner, Pending, PendingKind, Word


class _BudgetFact(Event):
    owner: ClassVar[Owner] = Owner.BUDGET


class BudgetGranted(_BudgetFact):
    """`amount_microusd` of the account's `day` is reserved for this build until `expires_at`, by the database's clock.

    `left_today_microusd` is what the account has left after it, of `day_limit_microusd` (none: not told).
    """

    type: ClassVar[Literal["budget.granted"]] = "budget.granted"
    version: ClassVar[Literal[1]] = 1

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


class BudgetDenied(_BudgetFact):
    """Not today. `refresh_at` is when the account's next day begins. May follow the end of a build: it closes what the
    build asked for while it ended."""

    type: ClassVar[Literal["budget.denied"]] = "budget.denied"
    version: ClassVar[Literal[1]] = 1
    after_close: ClassVar[bool] = True

    lease_id: UUID
    account_id: Id
    day: Word
    left_today_microusd: Microdollars
    refresh_at: AwareDatetime

    def pending(self, subject: str) -> Sequence[Pending]:
        return (Pending(PendingKind.BUDGET_REQUEST, str(self.lease_id), opens=False),)


class BudgetSettled(_BudgetFact):
    """The end of a reservation, once: what was spent is posted, the rest is free again. `overrun`: more was billed than
    reserved, all of it is posted, and the next day owes it. `estimated_microusd` is the part of `posted_microusd` that
    is a worst case and not a bill, because nobody saw the provider's answer (none: nothing)."""

    type: ClassVar[Literal["budget.settled"]] = "budget.settled"
    version: ClassVar[Literal[1]] = 1
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


class WakeRequested(_BudgetFact):
    """Wake this build: its money is refreshed, or a person or a top-up says so."""

    type: ClassVar[Literal["wake.requested"]] = "wake.requested"
    version: ClassVar[Literal[1]] = 1

    reason: Literal["refresh", "top_up", "person", "provider"]

    def pending(self, subject: str) -> Sequence[Pending]:
        return (
            Pending(PendingKind.SLEEPER, subject, opens=False),
            Pending(PendingKind.WAKE, subject, opens=True),
        )


BudgetEvent = BudgetGranted | BudgetDenied | BudgetSettled | WakeRequested
