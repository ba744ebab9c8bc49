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
import shutil
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
from nightshift.devstack.stack.steps import create_database
from nightshift.eventlog.database import Database, PgConfig
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
                    lease_id=lease,
                    account_id=account,
                    day="2026-01-01",
                    left_today_microusd=0,
                    refresh_at=due_at,
                ),
                SleepRequested(reason="budget", account_id=account, wake_at=due_at),
            ]
            events = [NewEvent(fact, uuid4()) for fact in facts]
            appends.append(Append(build_stream(f"b{number}"), events))
        await log.append_all(appends)


def serve(dsn: str, jitter_s: float, pipe) -> None:
    """The budget service's scheduler in a process of its own. Sends its CPU seconds and its memory when asked."""

    async def main() -> None:
        database = log_database(PgConfig(dsn=dsn, application_name="budget", max_connections=8))
        log = PostgresEventLog(database, actor="budget/bench")
        ledger, days = PostgresLedger(database, log), AccountDays(_POLICY)
        wakes = Wakes(log, ledger, days)
        grants = Grants(log, ledger, days, on_released=wakes.note_money)
        scheduler = WakeScheduler(log, grants, wakes, wake_jitter_s=jitter_s)
        running = asyncio.create_task(scheduler.run())
        await asyncio.to_thread(pipe.recv)
        running.cancel()
        used = resource.getrusage(resource.RUSAGE_SELF)
        pipe.send((used.ru_utime + used.ru_stime, used.ru_maxrss / 1024))

    asyncio.run(main())


async def measure(sleepers: int, accounts: int, jitter_s: float) -> None:
    folder = Path(tempfile.mkdtemp(prefix="nightshift-midnight-"))
    folder.chmod(0o755)
    server = EmbeddedPostgres(folder / "data")
    address = await server.start()
    try:
        await create_database(address)
        owner = address.dsn()
        await migrate(owner)
        database = log_database(PgConfig(dsn=owner))
        log = PostgresEventLog(database, actor="bench", notify=False)
        began = time.perf_counter()
        await populate(log, sleepers, accounts, datetime(2099, 1, 1, tzinfo=UTC))
        print(f"{sleepers} sleepers of {accounts} accounts appended in {time.perf_counter() - began:.0f} s")
        process, ours = start_service(address.dsn("nightshift_budget"), jitter_s)
        await asyncio.sleep(5)  # the service is up, and finds nothing due
        # All rows are there, so that midnight may come.
        midnight = datetime.now(UTC) + timedelta(seconds=5)
        await database.fetch(
            "UPDATE nightshift.pending SET due_at = $1 WHERE kind = 'sleeper' RETURNING 1", midnight
        )
        first, last = await all_woken(database, sleepers)
        ours.send("end")
        cpu, memory = await asyncio.to_thread(ours.recv)
        process.join()
        print("| sleepers | jitter | first wake late | last wake after | wakes/s | CPU a wake | memory |")
        print("|---|---|---|---|---|---|---|")
        print(
            f"| {sleepers} | {jitter_s:.0f} s | {(first - midnight).total_seconds():.2f} s"
            f" | {(last - midnight).total_seconds():.0f} s | {sleepers / (last - first).total_seconds():.0f}"
            f" | {cpu / sleepers * 1e3:.2f} ms | {memory:.0f} MB |"
        )
        await database.close()
    finally:
        await server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def start_service(dsn: str, jitter_s: float):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(dsn, jitter_s, theirs))
    process.start()
    return process, ours


async def all_woken(database: Database, sleepers: int) -> tuple[datetime, datetime]:
    """Wait until every build has its wake. Returns the times of the first and the last wake."""
    query = (
        "SELECT count(*), min(recorded_at), max(recorded_at)"
        " FROM nightshift.events WHERE type = 'wake.requested'"
    )
    while True:
        [(woken, first, last)] = await database.fetch(query)
        if woken == sleepers:
            return first, last
        await asyncio.sleep(5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sleepers", type=int, default=20_000)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--jitter", type=float, default=60.0, help="seconds over which the wakes are spread")
    given = parser.parse_args()
    asyncio.run(measure(given.sleepers, given.accounts, given.jitter))


if __name__ == "__main__":
    main()
