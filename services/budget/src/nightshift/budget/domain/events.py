"""Builds the events that follow from a ledger change. Pure: the same change always gives the same events."""

from datetime import datetime
from uuid import UUID

from nightshift.budget.domain.calendar import Day
from nightshift.budget.domain.ledger import Account, Reservation, Settlement, most_of_a_day
from nightshift.contracts.events.account import BudgetPeriodSet, BudgetRefreshed
from nightshift.contracts.events.budget import BudgetDenied, BudgetGranted, BudgetSettled


def refreshed(account: Account, day: Day) -> BudgetRefreshed:
    return BudgetRefreshed(
        account_id=account.account_id,
        day=day.label,
        limit_microusd=account.limit,
        spent_in_period_microusd=account.spent_in_period,
        days_left=day.days_left,
        refresh_at=day.refresh_at,
    )


def period_set(account: Account) -> BudgetPeriodSet:
    return BudgetPeriodSet(
        account_id=account.account_id,
        time_zone=account.period.time_zone,
        period_budget_microusd=account.period_budget,
        period_days=account.period.days,
        period_start=account.period.start.date(),
    )


def granted(account: Account, *, lease_id: UUID, amount: int, expires_at: datetime) -> BudgetGranted:
    return BudgetGranted(
        lease_id=lease_id,
        account_id=account.account_id,
        day=account.day,
        amount_microusd=amount,
        left_today_microusd=account.left_today,
        day_limit_microusd=account.limit,
        expires_at=expires_at,
    )


def denied(account: Account, day: Day, *, lease_id: UUID, first: str | None = None) -> BudgetDenied:
    """Return the event that denies a build's request for money.

    `first` is the id of another build of the account that must get the money first, or None when there is none.
    """
    return BudgetDenied(
        lease_id=lease_id,
        account_id=account.account_id,
        day=day.label,
        left_today_microusd=account.left_today,
        refresh_at=day.refresh_at,
        day_limit_microusd=most_of_a_day(account, day),
        first_build_id=first,
    )


def settled(reservation: Reservation, settlement: Settlement) -> BudgetSettled:
    return BudgetSettled(
        lease_id=reservation.lease_id,
        account_id=reservation.account_id,
        day=reservation.day,
        outcome=settlement.outcome,
        reserved_microusd=reservation.amount,
        posted_microusd=settlement.posted_amount,
        released_microusd=settlement.released,
        estimated_microusd=settlement.estimated or None,
    )
