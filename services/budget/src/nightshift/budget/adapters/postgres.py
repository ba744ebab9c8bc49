"""The ledger on PostgreSQL: writes its rows in the transaction that appends the events about them."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from nightshift.budget.domain.calendar import Period
from nightshift.budget.domain.ledger import Account, Reservation, Settlement
from nightshift.budget.ports import Decide, HeldReservation, LedgerChange, LedgerSnapshot, Opening
from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import VersionConflict
from nightshift.eventlog.postgres import PostgresEventLog

_ACCOUNTS = """
SELECT account_id, time_zone, period_start, period_days, day_seconds, period_budget, period_number, day, day_limit,
    posted, pending, spent_in_period, credited, reserved_before, estimated
FROM nightshift.accounts"""
_ACCOUNT = f"{_ACCOUNTS} WHERE account_id = $1"
_PAGE = f"{_ACCOUNTS} WHERE account_id > $1 ORDER BY account_id LIMIT $2"
_HELD = """
SELECT lease_id, account_id, build_id, day, amount, granted_event, outcome IS NOT NULL AS settled
FROM nightshift.reservations WHERE """
# An advisory lock, because two first requests of an account must not both create its row. Only this code uses 20045.
_LOCK = "SELECT pg_advisory_xact_lock(20045, hashtext($1)), clock_timestamp() AS now"
# Everything that a decision reads. A statement of its own, so that it sees what the lock's former holder wrote.
_SNAPSHOT = """
SELECT a.account_id, a.time_zone, a.period_start, a.period_days, a.day_seconds, a.period_budget, a.period_number,
    a.day, a.day_limit, a.posted, a.pending, a.spent_in_period, a.credited, a.reserved_before, a.estimated,
    r.lease_id, r.account_id AS held_account_id, r.build_id, r.day AS held_day, r.amount, r.granted_event,
    r.outcome IS NOT NULL AS settled, nightshift.budget_request_waits($2) AS waits
FROM (VALUES (1)) AS one
LEFT JOIN nightshift.accounts a ON a.account_id = $1
LEFT JOIN nightshift.reservations r ON r.lease_id = $2"""
_WRITE = """
INSERT INTO nightshift.accounts (account_id, time_zone, period_start, period_days, day_seconds, period_budget,
    period_number, day, day_limit, posted, pending, spent_in_period, credited, reserved_before,
    estimated)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (account_id) DO UPDATE SET
    time_zone = excluded.time_zone, period_start = excluded.period_start, period_days = excluded.period_days,
    day_seconds = excluded.day_seconds, period_budget = excluded.period_budget,
    period_number = excluded.period_number, day = excluded.day, day_limit = excluded.day_limit,
    posted = excluded.posted, pending = excluded.pending, spent_in_period = excluded.spent_in_period,
    credited = excluded.credited, reserved_before = excluded.reserved_before,
    estimated = excluded.estimated"""
_OPEN = """
INSERT INTO nightshift.reservations
    (lease_id, account_id, build_id, day, amount, granted_event, granted_at, expires_at)
SELECT $16, account_id, $17, $18, $19, $20, clock_timestamp(), $21 FROM written"""
_WRITE_AND_OPEN = "".join(("WITH written AS (", _WRITE, " RETURNING account_id)", _OPEN))
_END = """
UPDATE nightshift.reservations r SET outcome = n.outcome, posted = n.posted, estimated = n.estimated
FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[]) AS n (lease_id, outcome, posted, estimated)
WHERE r.lease_id = n.lease_id AND r.outcome IS NULL RETURNING r.lease_id"""


class PostgresLedger:
    """The `Ledger` port. `database` and `log` connect as the role nightshift_budget."""

    def __init__(self, database: Database, log: PostgresEventLog) -> None:
        self._database = database
        self._log = log

    async def transact(
        self, account_id: str, decide: Decide, *, lease_id: UUID | None = None
    ) -> LedgerChange | None:
        """Decide under the account's lock, and write in the same transaction as the append."""
        async with self._log.transaction() as (connection, log):
            now = (await connection.fetchrow(_LOCK, account_id))["now"]
            change = decide(_snapshot(now, await connection.fetchrow(_SNAPSHOT, account_id, lease_id)))
            if change is None:
                return None
            appended = await log.append_all(change.appends)
            if change.appends and not any(one.fresh for one in appended):
                # The log has these events, so the rows were written with them.
                return None
            await _write(connection, change)
        return change

    async def unsettled(self, build_id: str) -> Sequence[HeldReservation]:
        """Return the build's reservations that have not ended, oldest first."""
        rows = await self._database.fetch(
            _HELD + "build_id = $1 AND outcome IS NULL ORDER BY granted_at", build_id
        )
        return [_held(row) for row in rows]

    async def find(self, lease_id: UUID) -> HeldReservation | None:
        """Return the reservation under this lease, or None."""
        rows = await self._database.fetch(_HELD + "lease_id = $1", lease_id)
        return _held(rows[0]) if rows else None

    async def account(self, account_id: str) -> Account | None:
        """Return the account, or None."""
        rows = await self._database.fetch(_ACCOUNT, account_id)
        return _account(rows[0]) if rows else None

    async def accounts(self, limit: int, *, after: str = "") -> Sequence[Account]:
        """Return accounts in the order of their ids, those whose id comes after `after`."""
        return [_account(row) for row in await self._database.fetch(_PAGE, after, limit)]


async def _write(connection: Any, change: LedgerChange) -> None:
    opening = () if change.opened is None else _opening(change.opened)
    await connection.execute(_WRITE_AND_OPEN if opening else _WRITE, *_columns(change.account), *opening)
    if change.ended:
        await _end(connection, change.ended)


def _columns(account: Account) -> tuple[Any, ...]:
    period = account.period
    return (
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
        account.estimated,
    )


def _opening(opening: Opening) -> tuple[Any, ...]:
    held = opening.reservation
    return (
        held.lease_id,
        held.build_id,
        held.day,
        held.amount,
        opening.granted_event,
        opening.expires_at,
    )


async def _end(connection: Any, ended: Sequence[tuple[UUID, Settlement]]) -> None:
    leases = [lease_id for lease_id, _ in ended]
    ends = [end for _, end in ended]
    rows = await connection.fetch(
        _END,
        leases,
        [end.outcome for end in ends],
        [end.posted_amount for end in ends],
        [end.estimated for end in ends],
    )
    if len(rows) != len(leases):
        raise VersionConflict("a reservation was settled by another writer meanwhile")


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
        estimated=row["estimated"],
    )


def _held(row: Any, *, prefix: str = "") -> HeldReservation:
    reservation = Reservation(
        row["lease_id"], row[f"{prefix}account_id"], row["build_id"], row[f"{prefix}day"], row["amount"]
    )
    return HeldReservation(reservation, row["granted_event"], row["settled"])


def _snapshot(now: datetime, row: Any) -> LedgerSnapshot:
    account = None if row["account_id"] is None else _account(row)
    held = None if row["lease_id"] is None else _held(row, prefix="held_")
    return LedgerSnapshot(now, account, held, request_waits=row["waits"])
