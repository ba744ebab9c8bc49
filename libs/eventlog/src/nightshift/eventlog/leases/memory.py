"""Leases in memory, for tests and simulation. The event loop's clock, which the simulation controls, decides when they
expire.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from nightshift.eventlog.leases.port import Lease


@dataclass(frozen=True, slots=True)
class _Row:
    owner: str | None
    fence: int
    expires_at: float


class MemoryLeases:
    """The Leases port on a dict in memory."""

    def __init__(self) -> None:
        self._rows: dict[str, _Row] = {}

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        row, now = self._rows.get(name), asyncio.get_running_loop().time()
        if row is not None and row.owner not in (None, owner) and row.expires_at > now:
            return None
        fence = 1 if row is None else row.fence + 1
        self._rows[name] = _Row(owner, fence, now + ttl)
        return Lease(name, owner, fence)

    async def renew(self, lease: Lease, *, ttl: float) -> bool:
        now = asyncio.get_running_loop().time()
        if not self._has(lease) or self._rows[lease.name].expires_at <= now:
            return False
        self._rows[lease.name] = _Row(lease.owner, lease.fence, now + ttl)
        return True

    async def renew_all(self, leases: Sequence[Lease], *, ttl: float) -> Sequence[bool]:
        return [await self.renew(lease, ttl=ttl) for lease in leases]

    async def release(self, lease: Lease) -> None:
        if self._has(lease):
            self._rows[lease.name] = _Row(None, lease.fence, 0.0)

    async def release_all(self, owner: str) -> int:
        names = [name for name, row in self._rows.items() if row.owner == owner]
        self._rows |= {name: _Row(None, self._rows[name].fence, 0.0) for name in names}
        return len(names)

    def _has(self, lease: Lease) -> bool:
        row = self._rows.get(lease.name)
        return row is not None and (row.owner, row.fence) == (lease.owner, lease.fence)
