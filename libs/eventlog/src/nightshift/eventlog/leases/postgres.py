"""Leases as rows in PostgreSQL. The server's clock decides when they expire."""

from collections.abc import Sequence
from datetime import timedelta

from nightshift.eventlog.database import Database
from nightshift.eventlog.leases.port import Lease

# Renews in the order of names, so that two callers with the same rows cannot deadlock. Returns in the order of the
# arguments.
_RENEW_ALL = """
SELECT kept FROM (
    SELECT place, nightshift.renew_lease(name, owner, fence, $4) AS kept
    FROM (
        SELECT * FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS l (name, owner, fence, place)
        ORDER BY name
    ) AS by_name
) AS renewed ORDER BY place"""


class PostgresLeases:
    """The Leases port on PostgreSQL. Each call is one call of a function in `sql/functions`."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        rows = await self._database.fetch(
            "SELECT nightshift.acquire_lease($1, $2, $3)", name, owner, timedelta(seconds=ttl)
        )
        fence = rows[0][0]
        return None if fence is None else Lease(name, owner, fence)

    async def renew(self, lease: Lease, *, ttl: float) -> bool:
        return (await self.renew_all([lease], ttl=ttl))[0]

    async def renew_all(self, leases: Sequence[Lease], *, ttl: float) -> Sequence[bool]:
        if not leases:
            return ()
        rows = await self._database.fetch(
            _RENEW_ALL,
            [lease.name for lease in leases],
            [lease.owner for lease in leases],
            [lease.fence for lease in leases],
            timedelta(seconds=ttl),
        )
        return [bool(row[0]) for row in rows]

    async def release(self, lease: Lease) -> None:
        await self._database.fetch(
            "SELECT nightshift.release_lease($1, $2, $3)", lease.name, lease.owner, lease.fence
        )

    async def release_all(self, owner: str) -> int:
        rows = await self._database.fetch("SELECT nightshift.release_leases($1)", owner)
        return int(rows[0][0])
