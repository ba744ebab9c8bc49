"""Midnight: how one budget service wakes a crowd of sleepers that are due at one moment, on a real PostgreSQL.

    python bench/midnight.py                      20,000 sleepers of 200 accounts, spread over 60 s
    python bench/midnight.py --sleepers 100000    the figure of docs/explanation/scale.md (a quarter of an hour)

The service is the real one: WakeScheduler, Wakes and PostgresLedger in a process of its own. Builds that have woken are
not run.
"""

import argparse
import asyncio
import multiprocessing
import resource
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

from nightshift.budget.adapters.postgres import PostgresLedger
from nightshift.budget.domain.policy import BudgetPolicy
from nightshift.budget.usecases.account_days import AccountDays
from nightshift.budget.usecases.grants import Grants
from nightshift.budget.usecases.wake_scheduler import WakeScheduler
from nightshift.budget.usecases.wakes import Wakes
from nightshift.contracts.events.budget import BudgetDenied
from nightshift.contracts.events.build import BudgetRequested, SleepRequested
from nightshift.devstack.parts import EmbeddedPostgres
from nightshift.eventlog.database import PgConfig
from nightshift.eventlog.migrate import migrate
from nightshift.eventlog.port import Append, EventLog, NewEvent, build_stream
from nightshift.eventlog.postgres import PostgresEventLog, log_database

_PAGE = 200
_POLICY = BudgetPolicy(
    default_period_budget=10**12,
    default_period_days=30,
    default_time_zone="UTC",
    grant_lasts=timedelta(hours=1),
    day_seconds=None,
)


async def populate(log: EventLog, sleepers: int, accounts: int, due_at: datetime) -> None:
    """Append sleeping builds, `_PAGE` in one transaction."""
    for first in range(0, sleepers, _PAGE):
        appends = []
        for number in range(first, min(first + _PAGE, sleepers)):
            account, lease = f"a{number % accounts}", uuid4()
            facts = [
                BudgetRequested(
                    lease_id=lease, account_id=account, amount_microusd=200_000, minimum_microusd=100_000
                ),
                BudgetDenied(
                    lease_id=lease, account_id=account, day="2026-01-01", left_today_microusd=0, refresh_at=due_at
                ),
                SleepRequested(reason="budget", account_id=account, wake_at=due_at),
            ]
            events = [NewEvent(fact, uuid4()) for fact in facts]
            appends.append(Append(build_stream(f"b{number}"), events))
        await log.append_all(appends)


def serve(dsn: str, jitter_s: float, pipe) -> None:
    """The budget service's scheduler in a process of its own. Sends its CPU seconds and its memory when asked."""

    async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sleepers", type=int, default=20_000)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--jitter", type=float, default=60.0, help="seconds over which the wakes are spread")
    given = parser.parse_args()
    asyncio.run(measure(given.sleepers, given.accounts, given.jitter))


if __name__ == "__main__":
    main()
