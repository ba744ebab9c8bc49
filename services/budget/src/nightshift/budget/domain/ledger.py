"""An account's books: reserve, then spend. Every step is a pure function from books to books; the adapter stores what
they give in the transaction that appends the event.

limit ≥ posted + pending holds at every grant. A provider that bills more than was reserved is posted whole (`overrun`):
truth first; the day's remainder and, through what is spent in the period, the days after it pay."""

from dataclasses import dataclass, replace
from typing import Literal
from uuid import UUID

from nightshift.budget.domain.calendar import Day, Period

Outcome = Literal["posted", "voided", "expired", "overrun"]


@dataclass(frozen=True, slots=True)
class Account:
    """One row per account. Money in microdollars. `pending` is what is reserved of this day and not settled."""

    account_id: str
    period: Period
    period_budget: int
    period_number: int
    day: str
    limit: int
    posted: int
    pending: int
    spent_in_period: int  # posted in this period, today included
    credited: int  # topped up and not yet used up by an earlier period
    reserved_before: int  # reservations of earlier days that are not settled yet

    @property
    def left_today(self) -> int:
        return max(self.limit - self.posted - self.pending, 0)


@dataclass(frozen=True, slots=True)
class Reservation:
    """Money set aside for one build under `lease_id`. It ends once."""

    lease_id: UUID
    account_id: str
    build_id: str
    day: str
    amount: int


@dataclass(frozen=True, slots=True)
class Settlement:
    """How a reservation ended: `posted_amount` was spent, `released` is free again."""

    outcome: Outcome
    posted_amount: int
    released: int


def daily_limit(period_budget: int, spent: int, reserved: int, days_left: int) -> int:
    """What may be spent on one day: what the period has left, over the days it has left. Never negative."""
    return max(period_budget - spent - reserved, 0) // max(days_left, 1)


def open_account(account_id: str, period: Period, period_budget: int, day: Day) -> Account:
    """A new account on its first day."""
    return Account(
        account_id=account_id,
        period=period,
        period_budget=period_budget,
        period_number=day.period_number,
        day=day.label,
        limit=daily_limit(period_budget, 0, 0, day.days_left),
        posted=0,
        pending=0,
        spent_in_period=0,
        credited=0,
        reserved_before=0,
    )


def refresh(account: Account, day: Day) -> Account:
    """The account on `day`. The same day changes nothing; a new period starts with nothing spent."""
    if day.label == account.day:
        return account
    spent, credited = account.spent_in_period, account.credited
    if day.period_number != account.period_number:
        # A new period owes what the old one spent over its whole budget, and keeps what was paid and not used.
        over = account.spent_in_period - account.period_budget
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
    )


def set_period_budget(account: Account, period_budget: int, period: Period, day: Day) -> Account:
    """Another budget from now on; today's limit follows, but never below what is already bound today."""
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
    """Money for today, over the day's share. The period has it too, so that later days do not pay for it."""
    return replace(account, limit=account.limit + amount, credited=account.credited + amount)


def reserve(account: Account, amount: int, minimum: int) -> tuple[Account, int]:
    """Reserve `amount`, or what is left when that is at least `minimum`. Gives the amount reserved, 0: denied."""
    granted = min(amount, account.left_today)
    if granted < max(minimum, 1):
        return account, 0
    return replace(account, pending=account.pending + granted), granted


def settle(
    account: Account, reservation: Reservation, spent: int, *, expired: bool
) -> tuple[Account, Settlement]:
    """End a reservation with what was spent under it. More than reserved is posted whole, as an overrun."""
    if spent > reservation.amount:
        outcome: Outcome = "overrun"
    elif expired:
        outcome = "expired"
    else:
        outcome = "posted" if spent else "voided"
    settlement = Settlement(outcome, spent, max(reservation.amount - spent, 0))
    if reservation.day == account.day:
        books = replace(account, pending=account.pending - reservation.amount, posted=account.posted + spent)
    else:
        books = replace(account, reserved_before=account.reserved_before - reservation.amount)
    return replace(books, spent_in_period=books.spent_in_period + spent), settlement
