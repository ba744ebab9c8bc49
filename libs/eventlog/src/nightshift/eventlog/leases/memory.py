"""Leases in this process, for tests and simulation. Time is the event loop's, so that a virtual clock moves it."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from nightshift.eventlog.leases.port import Lease


@dataclass(frozen=True, slots=True)
class _Held:
    owner: str | None
    fence: int
    expires_at: float


class MemoryLeases:
    """The port of leases over a dict."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        """See the port."""
        held, now = self._held.get(name), asyncio.get_running_loop().time()
        if held is not None and held.owner not in (None, owner) and held.expires_at > now:
            return None
        fence = 1 if held is None else held.fence + 1
        self._held[name] = _Held(owner, fence, now + ttl)
        return Lease(name, owner, fence)

    async def renew(self, lease: Lease, *, ttl: float) -> bool:
        """See the port."""
        now = asyncio.get_running_loop().time()
        if not self._has(lease) or self._held[lease.name].expires_at <= now:
            return False
        self._held[lease.name] = _Held(lease.owner, lease.fence, now + ttl)
        return True

    async def renew_all(self, leases: Sequence[Lease], *, ttl: float) -> Sequence[bool]:
        """See the port."""
        return [await self.renew(lease, ttl=ttl) for lease in leases]

    async def release(self, lease: Lease) -> None:
        """See the port."""
        if self._has(lease):
            self._held[lease.name] = _Held(None, lease.fence, 0.0)

    async def release_all(self, owner: str) -> int:
        """See the port."""
        names = [name for name, held in self._held.items() if held.owner == owner]
        self._held |= {name: _Held(None, self._held[name].fence, 0.0) for name in names}
        return len(names)

    def _has(self, lease: Lease) -> bool:
        held = self._held.get(lease.name)
        return held is not None and (held.owner, held.fence) == (lease.owner, lease.fence)
