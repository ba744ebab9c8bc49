"""The ledger on PostgreSQL: the account's row is locked, decided on, and written in the transaction that appends."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from nightshift.budget.domain.calendar import Period
from nightshift.budget.domain.ledger import Account, Reservation, Settlement
from nightshift.budget.ledger import Books, Decide, HeldReservation, Opening, Step
from nightshift.runtime.log.postgres import PostgresEventLog
from nightshift.runtime.pg import Database

_ACCOUNTS = """
SELECT account_id, time_zone, period_start, period_days, day_seconds, period_budget, period_number, day, day_limit,
    posted, pending, spent_in_period, credited, reserved_before
FROM nightshift.accounts"""
_ACCOUNT = f"{_ACCOUNTS} WHERE account_id = $1"
_PAGE = f"{_ACCOUNTS} WHERE account_id > $1 ORDER BY account_id LIMIT $2"
_HELD = """
SELECT lease_id, account_id, build_id, day, amount, granted_event, outcome IS NOT NULL AS settled
FROM nightshift.reservations WHERE """
# The lock comes before the row exists: two first requests of an account must not both open it. 20045 is ours alone.
_LOCK = "SELECT pg_advisory_xact_lock(20045, hashtext($1)), clock_timestamp() AS now"
_WRITE = """
INSERT INTO nightshift.accounts (account_id, time_zone, period_start, period_days, day_seconds, period_budget,
    period_number, day, day_limit, posted, pending, spent_in_period, credited, reserved_before)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (account_id) DO UPDATE SET
    time_zone = excluded.time_zone, period_start = excluded.period_start, period_days = excluded.period_days,
    day_seconds = excluded.day_seconds, period_budget = excluded.period_budget,
    period_number = excluded.period_number, day = excluded.day, day_limit = excluded.day_limit,
    posted = excluded.posted, pending = excluded.pending, spent_in_period = excluded.spent_in_period,
    credited = excluded.credited, reserved_before = excluded.reserved_before"""
_OPEN = """
INSERT INTO nightshift.reservations
    (lease_id, account_id, build_id, day, amount, granted_event, granted_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, clock_timestamp(), $7)"""
_END = """
UPDATE nightshift.reservations SET outcome = $2, posted = $3 WHERE lease_id = $1 AND outcome IS NULL"""


class PostgresLedger:
    """The ledger's port. `database` and `log` are of the role nightshift_budget."""

    def __init__(self, database: Database, log: PostgresEventLog) -> None:
        self._database = database
        self._log = log

    async def transact(self, account_id: str, decide: Decide, *, lease_id: UUID | None = None) -> Step | None:
        """See the port."""
        async with self._log.transaction() as (connection, log):
            now = (await connection.fetchrow(_LOCK, account_id))["now"]
            row = await connection.fetchrow(_ACCOUNT, account_id)
            held, waits = None, False
            if lease_id is not None:
                held = await connection.fetchrow(_HELD + "lease_id = $1", lease_id)
                waits = await connection.fetchval("SELECT nightshift.budget_request_waits($1)", lease_id)
            step = decide(Books(now, row and _account(row), held and _held(held), request_waits=waits))
            if step is None:
                return None
            appended = await log.append_all(step.appends)
            if step.appends and not any(one.fresh for one in appended):
                # Said before, and the books were written with it.
                return None
            await _write(connection, step)
        return step

    async def unsettled(self, build_id: str) -> Sequence[HeldReservation]:
        """See the port."""
        rows = await self._database.fetch(
            _HELD + "build_id = $1 AND outcome IS NULL ORDER BY granted_at", build_id
        )
        return [_held(row) for row in rows]

    async def find(self, lease_id: UUID) -> HeldReservation | None:
        """See the port."""
        rows = await self._database.fetch(_HELD + "lease_id = $1", lease_id)
        return _held(rows[0]) if rows else None

    async def account(self, account_id: str) -> Account | None:
        """See the port."""
        rows = await self._database.fetch(_ACCOUNT, account_id)
        return _account(rows[0]) if rows else None

    async def accounts(self, limit: int, *, after: str = "") -> Sequence[Account]:
        """Accounts by their ids, those that come after `after`."""
        return [_account(row) for row in await self._database.fetch(_PAGE, after, limit)]


async def _write(connection: Any, step: Step) -> None:
    account, period = step.account, step.account.period
    await connection.execute(
        _WRITE,
        account.account_id,
        period.time_zone,
        period.start,
        period.days,
        period.day_seconds,
        account.period_budget,
        account.period_number,
        account.day,
        account.limit,
        account.posted,
        account.pending,
        account.spent_in_period,
        account.credited,
        account.reserved_before,
    )
    if step.opened is not None:
        await _open(connection, step.opened)
    if step.ended is not None:
        lease_id, end = step.ended
        await _end(connection, lease_id, end)


async def _open(connection: Any, opening: Opening) -> None:
    held = opening.reservation
    await connection.execute(
        _OPEN,
        held.lease_id,
        held.account_id,
        held.build_id,
        held.day,
        held.amount,
        opening.granted_event,
        opening.expires_at,
    )


async def _end(connection: Any, lease_id: UUID, end: Settlement) -> None:
    await connection.execute(_END, lease_id, end.outcome, end.posted_amount)


def _account(row: Any) -> Account:
    return Account(
        account_id=row["account_id"],
        period=Period(row["time_zone"], row["period_start"], row["period_days"], row["day_seconds"]),
        period_budget=row["period_budget"],
        period_number=row["period_number"],
        day=row["day"],
        limit=row["day_limit"],
        posted=row["posted"],
        pending=row["pending"],
        spent_in_period=row["spent_in_period"],
        credited=row["credited"],
        reserved_before=row["reserved_before"],
    )


def _held(row: Any) -> HeldReservation:
    reservation = Reservation(row["lease_id"], row["account_id"], row["build_id"], row["day"], row["amount"])
    return HeldReservation(reservation, row["granted_event"], row["settled"])
