"""The ledger on PostgreSQL. Its rows are written in the transaction that appends the events about them."""

from collections.abc import Sequence
from dataclasses import astuple
from datetime import datetime
from typing import Any
from uuid import UUID

from nightshift.budget.domain.calendar import Period
from nightshift.budget.domain.ledger import Account, Reservation
from nightshift.budget.domain.shares import BuildShare
from nightshift.budget.ports import Decide, LedgerChange, LedgerSnapshot
from nightshift.eventlog.database import Database
from nightshift.eventlog.errors import VersionConflict
from nightshift.eventlog.postgres import PostgresEventLog

#: The columns of an account, in the order of the fields of Account and Period.
_LIST = (
    "account_id, time_zone, period_start, period_days, day_seconds, period_budget, period_number, day, day_limit,"
    " posted, pending, spent_in_period, credited, reserved_before, estimated"
)
_COLUMNS = _LIST.split(", ")
_ACCOUNTS = " ".join(("SELECT", _LIST, "FROM nightshift.accounts"))
_ACCOUNT = f"{_ACCOUNTS} WHERE account_id = $1"
_PAGE = f"{_ACCOUNTS} WHERE account_id > $1 ORDER BY account_id LIMIT $2"
_UNSETTLED = """
SELECT lease_id, account_id, build_id, day, amount, granted_event, expires_at
FROM nightshift.reservations WHERE outcome IS NULL AND """
# An advisory lock, because two requests of a new account must not both insert its row. Only this code uses class 20045.
_LOCK = "SELECT pg_advisory_xact_lock(20045, hashtext($1)), clock_timestamp() AS now"
# All that a decision reads. It follows the lock in a statement of its own, so that it sees what the former lock holder
# wrote.
_SNAPSHOT = f"""
SELECT {", ".join(f"a.{column}" for column in _COLUMNS)},
    r.lease_id IS NOT NULL AS granted, nightshift.budget_request_waits($2) AS waits
FROM (VALUES (1)) AS one
LEFT JOIN nightshift.accounts a ON a.account_id = $1
LEFT JOIN nightshift.reservations r ON r.lease_id = $2"""  # noqa: S608 - column names of this module
_WRITE = f"""
INSERT INTO nightshift.accounts ({_LIST})
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
ON CONFLICT (account_id) DO UPDATE SET
    {", ".join(f"{column} = excluded.{column}" for column in _COLUMNS[1:])}"""  # noqa: S608
_OPEN = """
INSERT INTO nightshift.reservations
    (lease_id, account_id, build_id, day, amount, granted_event, granted_at, expires_at)
SELECT $16, account_id, $17, $18, $19, $20, clock_timestamp(), $21 FROM written"""
_WRITE_AND_OPEN = "".join(("WITH written AS (", _WRITE, " RETURNING account_id)", _OPEN))
_END = """
WITH ended AS (
    UPDATE nightshift.reservations r SET outcome = n.outcome, posted = n.posted, estimated = n.estimated
    FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[]) AS n (lease_id, outcome, posted, estimated)
    WHERE r.lease_id = n.lease_id AND r.outcome IS NULL RETURNING r.lease_id, r.build_id, r.day, r.posted
), counted AS (
    UPDATE nightshift.build_shares b SET spent = b.spent + s.total, spent_today = b.spent_today + s.today
    FROM (
        SELECT k.build_id, sum(e.posted) AS total, coalesce(sum(e.posted) FILTER (WHERE e.day = k.day), 0) AS today
        FROM ended e JOIN nightshift.build_shares k ON k.build_id = e.build_id GROUP BY k.build_id
    ) AS s
    WHERE b.build_id = s.build_id
)
SELECT lease_id FROM ended"""
_SHARES = """
SELECT build_id, account_id, priority, day, spent_today, spent, needs, waits_since
FROM nightshift.build_shares WHERE account_id = $1 AND ended_at IS NULL"""
# Only _END adds to what was spent.
_SHARE = """
INSERT INTO nightshift.build_shares AS b
    (build_id, account_id, priority, day, spent_today, spent, needs, waits_since)
VALUES ($1, $2, $3, $4, 0, 0, $5, $6)
ON CONFLICT (build_id) DO UPDATE SET
    priority = excluded.priority, needs = excluded.needs, waits_since = excluded.waits_since,
    spent_today = CASE WHEN b.day = excluded.day THEN b.spent_today ELSE 0 END, day = excluded.day"""
_STOP_WAITING = (
    "UPDATE nightshift.build_shares SET waits_since = NULL WHERE build_id = $1 AND waits_since IS NOT NULL"
)
_END_BUILD = """
UPDATE nightshift.build_shares SET ended_at = clock_timestamp(), outcome = $2, waits_since = NULL
WHERE build_id = $1 AND ended_at IS NULL"""


class PostgresLedger:
    """The Ledger port on PostgreSQL. `database` and `log` must connect as the role nightshift_budget."""

    def __init__(self, database: Database, log: PostgresEventLog) -> None:
        self._database = database
        self._log = log

    async def transact(
        self, account_id: str, decide: Decide, *, lease_id: UUID | None = None
    ) -> LedgerChange | None:
        async with self._log.transaction() as (connection, log):
            now = (await connection.fetchrow(_LOCK, account_id))["now"]
            row = await connection.fetchrow(_SNAPSHOT, account_id, lease_id)
            shares = [] if lease_id is None else await connection.fetch(_SHARES, account_id)
            change = decide(_snapshot(now, row, shares))
            if change is None:
                return None
            appended = await log.append_all(change.appends)
            if change.appends and not any(one.fresh for one in appended):
                # The log had all events before, so the rows were written with them.
                return None
            await _write(connection, change)
        return change

    async def unsettled(self, build_id: str) -> Sequence[Reservation]:
        rows = await self._database.fetch(_UNSETTLED + "build_id = $1 ORDER BY granted_at", build_id)
        return [Reservation(*row) for row in rows]

    async def find(self, lease_id: UUID) -> Reservation | None:
        rows = await self._database.fetch(_UNSETTLED + "lease_id = $1", lease_id)
        return Reservation(*rows[0]) if rows else None

    async def shares(self, account_id: str) -> Sequence[BuildShare]:
        return [BuildShare(*row) for row in await self._database.fetch(_SHARES, account_id)]

    async def stop_waiting(self, build_id: str) -> None:
        await self._database.fetch(_STOP_WAITING, build_id)

    async def end_build(self, build_id: str, outcome: str) -> None:
        await self._database.fetch(_END_BUILD, build_id, outcome)

    async def now(self) -> datetime:
        rows = await self._database.fetch("SELECT clock_timestamp() AS now")
        now: datetime = rows[0]["now"]
        return now

    async def account(self, account_id: str) -> Account | None:
        rows = await self._database.fetch(_ACCOUNT, account_id)
        return _account(rows[0]) if rows else None

    async def accounts(self, limit: int, *, after: str = "") -> Sequence[Account]:
        """Return up to `limit` accounts sorted by id, starting behind the id `after`."""
        return [_account(row) for row in await self._database.fetch(_PAGE, after, limit)]


async def _write(connection: Any, change: LedgerChange) -> None:
    account_id, period, *money = astuple(change.account)
    values = account_id, *period, *money
    if change.opened is None:
        await connection.execute(_WRITE, *values)
    else:
        lease_id, _account_id, *opened = astuple(change.opened)
        await connection.execute(_WRITE_AND_OPEN, *values, lease_id, *opened)
    if (share := change.share) is not None:
        named = share.build_id, share.account_id, share.priority, share.day
        await connection.execute(_SHARE, *named, share.needs, share.waits_since)
    if change.ended:
        leases, ends = zip(*change.ended, strict=True)
        outcomes = [end.outcome for end in ends]
        posted, estimated = [end.posted_amount for end in ends], [end.estimated for end in ends]
        if len(await connection.fetch(_END, leases, outcomes, posted, estimated)) != len(leases):
            raise VersionConflict("a reservation was settled by another writer meanwhile")


def _account(row: Any) -> Account:
    return Account(row[0], Period(*row[1:5]), *row[5:15])


def _snapshot(now: datetime, row: Any, shares: Sequence[Any]) -> LedgerSnapshot:
    account = None if row[0] is None else _account(row)
    return LedgerSnapshot(
        now, account, row["granted"], row["waits"], [BuildShare(*share) for share in shares]
    )
