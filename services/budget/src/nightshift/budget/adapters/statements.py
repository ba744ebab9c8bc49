"""Reads accounts for people, without changing anything. The command line imports no other module of this service."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from nightshift.budget.adapters.postgres import PostgresLedger
from nightshift.budget.domain.calendar import check_time_zone, day_at
from nightshift.budget.domain.forecast import BuildForecast, Forecast, forecast
from nightshift.budget.domain.ledger import Account, refresh
from nightshift.budget.domain.shares import on_day
from nightshift.eventlog.database import Database
from nightshift.eventlog.postgres import PostgresEventLog

__all__ = [
    "AccountStatement",
    "BuildForecast",
    "Forecast",
    "check_time_zone",
    "forecast_of",
    "statement",
    "statements",
]

#: From how many builds a usual cost is computed: the newest of the account, or of all accounts when it has none.
_SAMPLES = 50
_READY = """
SELECT spent FROM nightshift.build_shares
WHERE outcome = 'build.ready' AND ($1::text IS NULL OR account_id = $1) ORDER BY ended_at DESC LIMIT $2"""


@dataclass(frozen=True, slots=True)
class AccountStatement:
    """The state of an account today. Money is in microdollars.

    `estimated_microusd` is the part of `spent_in_period_microusd` that is a worst case, because the provider's answers
    were lost.
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
    """Return the account's statement at the database's time, or None when the account does not exist."""
    account = await _ledger(database).account(account_id)
    return None if account is None else statement_of(account, await _now(database))


async def statements(database: Database, limit: int, *, after: str = "") -> Sequence[AccountStatement]:
    """Return the statements of up to `limit` accounts sorted by id, starting behind the id `after`."""
    now = await _now(database)
    return [statement_of(one, now) for one in await _ledger(database).accounts(limit, after=after)]


async def forecast_of(database: Database, account_id: str) -> Forecast | None:
    """Return a forecast of the account's builds, or None when the account does not exist."""
    ledger, now = _ledger(database), await _now(database)
    stored = await ledger.account(account_id)
    if stored is None:
        return None
    today = refresh(stored, day_at(stored.period, now))
    shares = [on_day(one, today.day) for one in await ledger.shares(account_id)]
    ready = await database.fetch(_READY, account_id, _SAMPLES) or await database.fetch(_READY, None, _SAMPLES)
    return forecast(today, shares, [row["spent"] for row in ready], now)


def statement_of(account: Account, now: datetime) -> AccountStatement:
    """Return the statement of an account at `now`, a time with a time zone. `account` may be from an earlier day."""
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
