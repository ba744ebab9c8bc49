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
        owner = address.dsn()
        await migrate(owner)
        database = log_database(PgConfig(dsn=owner))
        log = PostgresEventLog(database, actor="bench", notify=False)
        due_at = datetime(2099, 1, 1, tzinfo=UTC)
        began = time.perf_counter()
        # The time comes when the database says so: the rows are moved to the present when all are there.
        await populate(log, sleepers, accounts, due_at)
        print(f"{sleepers} sleepers of {accounts} accounts appended in {time.perf_counter() - began:.0f} s")
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(address.dsn("nightshift_budget"), jitter_s, theirs)
        )
        process.start()
        await asyncio.sleep(5)  # the service is up, and finds nothing due
        midnight = datetime.now(UTC) + timedelta(seconds=5)
        await database.fetch(
            "UPDATE nightshift.pending SET due_at = $1 WHERE kind = 'sleeper' RETURNING 1", midnight
        )
        count = "SELECT count(*), min(recorded_at), max(recorded_at) FROM nightshift.events WHERE type = 'wake.requested'"
        while True:
            [(woken, first, last)] = await database.fetch(count)
            if woken == sleepers:
                break
            await asyncio.sleep(2)
        ours.send("end")
        cpu, memory = await asyncio.to_thread(ours.recv)
        process.join()
        wakes_s = sleepers / (last - first).total_seconds()
        print("| sleepers | jitter | first wake late | last wake after | wakes/s | CPU a wake | memory |")
        print("|---|---|---|---|---|---|---|")
        print(
            f"| {sleepers} | {jitter_s:.0f} s | {(first - midnight).total_seconds():.2f} s"
            f" | {(last - midnight).total_seconds():.0f} s | {wakes_s:.0f} | {cpu / sleepers * 1e3:.2f} ms"
            f" | {memory:.0f} MB |"
        )
        await database.close()
    finally:
        await server.stop()


def main() -> None:
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
        owner = address.dsn()
        await migrate(owner)
        database = log_database(PgConfig(dsn=owner))
        log = PostgresEventLog(database, actor="bench", notify=False)
        due_at = datetime(2099, 1, 1, tzinfo=UTC)
        began = time.perf_counter()
        # The time comes when the database says so: the rows are moved to the present when all are there.
        await populate(log, sleepers, accounts, due_at)
        print(f"{sleepers} sleepers of {accounts} accounts appended in {time.perf_counter() - began:.0f} s")
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(address.dsn("nightshift_budget"), jitter_s, theirs)
        )
        process.start()
        await asyncio.sleep(5)  # the service is up, and finds nothing due
        midnight = datetime.now(UTC) + timedelta(seconds=5)
        await database.fetch(
            "UPDATE nightshift.pending SET due_at = $1 WHERE kind = 'sleeper' RETURNING 1", midnight
        )
        count = "SELECT count(*), min(recorded_at), max(recorded_at) FROM nightshift.events WHERE type = 'wake.requested'"
        while True:
            [(woken, first, last)] = await database.fetch(count)
            if woken == sleepers:
                break
            await asyncio.sleep(2)
        ours.send("end")
        cpu, memory = await asyncio.to_thread(ours.recv)
        process.join()
        wakes_s = sleepers / (last - first).total_seconds()
        print("| sleepers | jitter | first wake late | last wake after | wakes/s | CPU a wake | memory |")
        print("|---|---|---|---|---|---|---|")
        print(
            f"| {sleepers} | {jitter_s:.0f} s | {(first - midnight).total_seconds():.2f} s"
            f" | {(last - midnight).total_seconds():.0f} s | {wakes_s:.0f} | {cpu / sleepers * 1e3:.2f} ms"
            f" | {memory:.0f} MB |"
        )
        await database.close()
    finally:
        await server.stop()


class Clock:
    """The virtual time."""

    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


async def simulate(sleepers: int, accounts: int, jitter_s: float) -> None:
    """Tick twice a virtual second, and compare the time of each wake with the moment that the jitter gave to it."""
    midnight = datetime(2026, 11, 22, tzinfo=UTC)
    clock = Clock(midnight - timedelta(seconds=5))
    log = MemoryEventLog(now=clock)
    await populate(log, sleepers, accounts, midnight)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    ledger, days = MemoryLedger(log, clock), AccountDays(_POLICY)
    wakes = Wakes(log, ledger, days)
    grants = Grants(log, ledger, days, on_released=wakes.note_money)
    scheduler = WakeScheduler(log, grants, wakes, wake_jitter_s=jitter_s, clock=clock)
    left, worst, first = sleepers, 0.0, None
    while left and clock.now < midnight + timedelta(seconds=jitter_s + 5):
        while await scheduler.tick(clock.now):
            pass
        now_left = sum(kind is PendingKind.SLEEPER for kind, *_ in log.tables.pending)
        if now_left < left and first is None:
            first = (clock.now - midnight).total_seconds()
        worst = max(worst, (clock.now - midnight).total_seconds()) if now_left < left else worst
        left = now_left
        clock.now += timedelta(seconds=0.5)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"simulated: {sleepers} sleepers, spread {jitter_s:.0f} s: first wake {first} s late, last after {worst} s,")
    print(f"{left} not woken; the log and the service together grew from {before:.0f} to {after:.0f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sleepers", type=int, default=20_000)
    parser.add_argument("--accounts", type=int, default=200)
    parser.add_argument("--jitter", type=float, default=60.0, help="seconds over which the wakes are spread")
    given = parser.parse_args()
    asyncio.run(measure(given.sleepers, given.accounts, given.jitter))


if __name__ == "__main__":
    main()
