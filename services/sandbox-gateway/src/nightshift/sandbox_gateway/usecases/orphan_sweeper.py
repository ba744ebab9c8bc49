"""Kills sandboxes that belong to no build, by comparing the driver's list with the log."""

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from prometheus_client import Gauge

from nightshift.eventlog.errors import NightshiftError
from nightshift.eventlog.fold_cache import FoldCache
from nightshift.eventlog.leases.port import Leases
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState
from nightshift.sandboxes.port import SandboxDriver, SandboxInfo

_log = structlog.get_logger(__name__)
_LEASE_S = 30.0
_SANDBOXES = Gauge(
    "nightshift_sandboxes", "Sandboxes of this installation that the driver lists", ["driver", "state"]
)


@dataclass(frozen=True, slots=True)
class OrphanSweeper:
    """Kills sandboxes that no build uses, for example because their creator died before it recorded them.

    Also kills the sandboxes that `nightshift doctor` starts as a test, when they are older than `grace_s` seconds.
    """

    driver: SandboxDriver
    leases: Leases
    states: FoldCache[SandboxState]
    owner: str
    grace_s: float = 120.0

    async def run(self, every_s: float) -> None:
        """Sweep now and every `every_s` seconds, while the service runs."""
        while True:
            await self.sweep()
            await asyncio.sleep(every_s)

    async def sweep(self) -> int:
        """Sweep once and return how many sandboxes were killed. An error ends the sweep; the next one continues."""
        ended = 0
        try:
            found = await self.driver.list()
            states = Counter(info.state for info in found)
            for state in ("running", "paused"):
                _SANDBOXES.labels(self.driver.name, state).set(states[state])
            for info in found:
                ended += await self._end_if_orphan(info)
        except NightshiftError as error:
            _log.warning("sandboxes.not_swept", error=str(error))
        return ended

    async def _end_if_orphan(self, info: SandboxInfo) -> bool:
        build_id = info.metadata.get("build")
        if build_id is None:
            if (datetime.now(UTC) - info.started_at).total_seconds() < self.grace_s:
                return False
            await self._end(info, build_id)
            return True
        if await self._belongs(build_id, info):
            return False
        # A gateway creates a sandbox before it records it, and has the build's lease meanwhile.
        lease = await self.leases.acquire(f"sandbox/{build_id}", f"{self.owner}/sweep", ttl=_LEASE_S)
        if lease is None:
            return False
        try:
            if await self._belongs(build_id, info):
                return False
            await self._end(info, build_id)
            return True
        finally:
            await self.leases.release(lease)

    async def _end(self, info: SandboxInfo, build_id: str | None) -> None:
        await self.driver.kill(info.sandbox_id)
        _log.warning("sandbox.swept", build_id=build_id, sandbox_id=info.sandbox_id)

    async def _belongs(self, build_id: str, info: SandboxInfo) -> bool:
        state = await self.states.read(build_id)
        return state.sandbox is not None and state.sandbox.sandbox_id == info.sandbox_id
