"""Leases as rows of PostgreSQL, by its clock."""

from collections.abc import Sequence
from datetime import timedelta

from nightshift.runtime.leases import Lease
from nightshift.runtime.pg import Database


class PostgresLeases:
    """The port of leases: calls of the functions in `log/sql/functions`, each one round trip."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        """See the port."""
        rows = await self._database.fetch(
            "SELECT nightshift.acquire_lease($1, $2, $3)", name, owner, timedelta(seconds=ttl)
        )
        fence = rows[0][0]
        return None if fence is None else Lease(name, owner, fence)

    async def renew(self, lease: Lease, *, ttl: float) -> bool:
        """See the port."""
        rows = await self._database.fetch(
            "SELECT nightshift.renew_lease($1, $2, $3, $4)",
            lease.name,
            lease.owner,
            lease.fence,
            timedelta(seconds=ttl),
        )
        return bool(rows[0][0])

    async def release(self, lease: Lease) -> None:
        """See the port."""
        await self._database.fetch(
            "SELECT nightshift.release_lease($1, $2, $3)", lease.name, lease.owner, lease.fence
        )

    async def release_all(self, owner: str) -> int:
        """See the port."""
        rows = await self._database.fetch("SELECT nightshift.release_leases($1)", owner)
        return int(rows[0][0])

    async def expired(self, prefix: str, *, limit: int = 1000) -> Sequence[str]:
        """See the port."""
        rows = await self._database.fetch("SELECT * FROM nightshift.expired_leases($1, $2)", prefix, limit)
        return [row[0] for row in rows]
