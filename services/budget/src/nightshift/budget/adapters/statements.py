"""The accounts as people see them, read-only. The only module of this service that the command line imports."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nightshift.budget.adapters.postgres import PostgresLedger
from nightshift.budget.domain.calendar import check_time_zone, day_at
from nightshift.budget.domain.ledger import Account, refresh
from nightshift.eventlog.database import Database
from nightshift.eventlog.postgres import PostgresEventLog

__all__ = ["AccountStatement", "check_time_zone", "statement", "statements"]


@dataclass(frozen=True, slots=True)
class AccountStatement:
    """An account today. Money in microdollars.

    `estimated_microusd` is the part of `spent_in_period_microusd` that is a worst case, because nobody saw the answers.
    """

    account_id: str
    time_zone: str
    period_days: int
    day: str
    refresh_at: datetime
    period_budget_microusd: int
    spent_in_period_microusd: int
    estimated_microusd: int
    limit_microusd: int
    posted_microusd: int
    reserved_microusd: int
    left_today_microusd: int


async def statement(database: Database, account_id: str) -> AccountStatement | None:
    """Return the account's statement by the database's clock, or None when it does not exist."""
    account = await _ledger(database).account(account_id)
    return None if account is None else statement_of(account, await _now(database))


async def statements(database: Database, limit: int, *, after: str = "") -> Sequence[AccountStatement]:
    """Return the statements of up to `limit` accounts whose id comes after `after`, sorted by id."""
    now = await _now(database)
    return [statement_of(one, now) for one in await _ledger(database).accounts(limit, after=after)]


def statement_of(account: Account, now: datetime) -> AccountStatement:
    """Return the account's statement at `now` (aware). The stored account may be of an earlier day."""
    day = day_at(account.period, now)
    account = refresh(account, day)
    return AccountStatement(
        account_id=account.account_id,
        time_zone=account.period.time_zone,
        period_days=account.period.days,
        day=account.day,
        refresh_at=day.refresh_at,
        period_budget_microusd=account.period_budget,
        spent_in_period_microusd=account.spent_in_period,
        estimated_microusd=account.estimated,
        limit_microusd=account.limit,
        posted_microusd=account.posted,
        reserved_microusd=account.pending,
        left_today_microusd=account.left_today,
    )


def _ledger(database: Database) -> PostgresLedger:
    return PostgresLedger(database, PostgresEventLog(database, actor="statements", notify=False))


async def _now(database: Database) -> datetime:
    now: datetime = (await database.fetch("SELECT clock_timestamp() AS now"))[0]["now"]
    return now
