"""Sandboxes that no build has: the provider's list is the truth, not what we remember."""

from dataclasses import dataclass

import structlog

from nightshift.eventlog.errors import Transient
from nightshift.eventlog.leases.port import Leases
from nightshift.sandbox_gateway.usecases.gateway import Gateway
from nightshift.sandboxes.port import SandboxDriver, SandboxInfo

_log = structlog.get_logger(__name__)
_LEASE_S = 30.0


@dataclass(frozen=True, slots=True)
class Sweep:
    """Ends orphans, such as one made by a gateway that died before it could say so."""

    driver: SandboxDriver
    leases: Leases
    gateway: Gateway

    async def once(self) -> int:
        """Returns how many were ended."""
        ended = 0
        try:
            for info in await self.driver.list():
                ended += await self._look(info)
        except Transient as error:
            _log.warning("sandboxes cannot be listed", error=str(error))
        return ended

    async def _look(self, info: SandboxInfo) -> bool:
        build_id = info.metadata.get("build")
        if build_id is None or await self._belongs(build_id, info):
            return False
        # A sandbox is made before it is told of: only under the build's lease is it sure that nobody is about to.
        lease = await self.leases.acquire(f"sandbox/{build_id}", f"{self.gateway.owner}/sweep", ttl=_LEASE_S)
        if lease is None:
            return False
        try:
            if await self._belongs(build_id, info):
                return False
            await self.driver.kill(info.sandbox_id)
            _log.warning("orphaned sandbox ended", build_id=build_id, sandbox_id=info.sandbox_id)
            return True
        finally:
            await self.leases.release(lease)

    async def _belongs(self, build_id: str, info: SandboxInfo) -> bool:
        view = await self.gateway.view(build_id)
        return view.box is not None and view.box.sandbox_id == info.sandbox_id
