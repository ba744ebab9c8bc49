"""The arithmetic of an account: money is reserved first and spent later. Functions return the changed account.

At every grant, `limit` is at least `posted + pending`. A cost above its reservation is posted as a whole, as an
`overrun`. The later days of the period then have less.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from nightshift.budget.domain.calendar import Day, Period, day_at
from nightshift.budget.domain.spending import Spent

Outcome = Literal["posted", "voided", "expired", "overrun"]


@dataclass(frozen=True, slots=True)
class Account:
    """An account on one day. Money is in microdollars.

    `limit` is what it may spend on this day, `posted` what it has spent, and `pending` what is reserved and not
    settled.
    """

    account_id: str
    period: Period
    period_budget: int
    period_number: int
    day: str
    limit: int
    posted: int = 0
    pending: int = 0
    spent_in_period: int = 0  # posted in this period, including today
    credited: int = 0  # topped up and not used up by an earlier period
    reserved_before: int = 0  # the sum of earlier days' reservations that are not settled
    estimated: int = 0  # the part of spent_in_period that is a worst case, without a bill

    @property
    def left_today(self) -> int:
        return max(self.limit - self.posted - self.pending, 0)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money reserved for one build, until it is settled or expires at `expires_at`. `lease_id` is the reservation's id.

    `granted_event` is the id of its `budget.granted` event.
    """

    lease_id: UUID
    account_id: str
    build_id: str
    day: str
    amount: int
    granted_event: UUID
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a reservation ended: `posted_amount` was spent, and `released` is free again.

    `estimated` is the part of `posted_amount` for which the provider stated no usage.
    """

    outcome: Outcome
    posted_amount: int
    released: int
    estimated: int = 0


def daily_limit(period_budget: int, spent: int, reserved: int, days_left: int) -> int:
    """Return what may be spent on one day: the money left in the period divided by its remaining days, at least 0."""
    return max(period_budget - spent - reserved, 0) // max(days_left, 1)


def open_account(account_id: str, period: Period, period_budget: int, day: Day) -> Account:
    """Return a new account on its first day."""
    limit = daily_limit(period_budget, 0, 0, day.days_left)
    return Account(account_id, period, period_budget, day.period_number, day.label, limit)


def refresh(account: Account, day: Day) -> Account:
    """Return the account on `day`, with a new limit and nothing spent on that day. On the same day it is unchanged.

    A new period starts with what the old period overspent.
    """
    if day.label == account.day:
        return account
    spent, credited, estimated = account.spent_in_period, account.credited, account.estimated
    if day.period_number != account.period_number:
        # A new period starts with what the old one overspent, and with the credit that the old one did not use.
        over = account.spent_in_period - account.period_budget
        estimated = 0
        spent, credited = max(over - credited, 0), min(credited, max(credited - over, 0))
    reserved = account.reserved_before + account.pending
    return replace(
        account,
        period_number=day.period_number,
        day=day.label,
        limit=daily_limit(account.period_budget + credited, spent, reserved, day.days_left),
        posted=0,
        pending=0,
        spent_in_period=spent,
        credited=credited,
        reserved_before=reserved,
        estimated=estimated,
    )


def most_of_a_day(account: Account, day: Day) -> int:
    """Return the most that the account could reserve today or on its next day, if nothing else were spent or reserved.

    `day` is today.
    """
    idle = replace(account, pending=0, reserved_before=0)
    tomorrow = refresh(idle, day_at(account.period, day.refresh_at))
    return max(idle.left_today, tomorrow.left_today)


def set_period_budget(account: Account, period_budget: int, period: Period, day: Day) -> Account:
    """Return the account with another budget from now on.

    Today's limit changes, too, but is never less than what is spent and reserved today.
    """
    limit = daily_limit(
        period_budget + account.credited,
        account.spent_in_period - account.posted,
        account.reserved_before,
        day.days_left,
    )
    return replace(
        account,
        period=period,
        period_budget=period_budget,
        limit=max(limit, account.posted + account.pending),
    )


def credit(account: Account, amount: int) -> Account:
    """Return the account with more money in today's limit and in the period's budget. Later days do not have less."""
    return replace(account, limit=account.limit + amount, credited=account.credited + amount)


def reserve(account: Account, amount: int, minimum: int) -> tuple[Account, int]:
    """Reserve `amount` of today's money, or all that is left when less than `amount` is left.

    Returns the account and the amount reserved. Reserves nothing, and returns 0 as the amount, when less than `minimum`
    is left.
    """
    granted = min(amount, account.left_today)
    if granted < max(minimum, 1):
        return account, 0
    return replace(account, pending=account.pending + granted), granted


def settle(
    account: Account, reservation: Reservation, spent: Spent, *, expired: bool
) -> tuple[Account, Settlement]:
    """End a reservation: post what its model calls have `spent`, and release the money that is left of it.

    A cost above the reservation is posted as a whole, as an overrun. `expired` is True when the reservation's time was
    over. Returns the changed account, and how the reservation ended.
    """
    if spent.total > reservation.amount:
        outcome: Outcome = "overrun"
    elif expired:
        outcome = "expired"
    else:
        outcome = "posted" if spent.total else "voided"
    released = max(reservation.amount - spent.total, 0)
    if reservation.day == account.day:
        account = replace(
            account, pending=account.pending - reservation.amount, posted=account.posted + spent.total
        )
    else:
        account = replace(account, reserved_before=account.reserved_before - reservation.amount)
    account = replace(
        account,
        spent_in_period=account.spent_in_period + spent.total,
        estimated=account.estimated + spent.estimated,
    )
    return account, Settlement(outcome, spent.total, released, spent.estimated)
