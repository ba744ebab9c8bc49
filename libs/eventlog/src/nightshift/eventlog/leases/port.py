"""The port of leases: an owner may work on a name until the lease expires, by the clock of one server."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease of `owner` on `name`. A later lease on the same name has a higher `fence`."""

    name: str
    owner: str
    fence: int


class Leases(Protocol):
    """Leases by name. Every call may raise Unavailable."""

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        """Acquire a free or expired name for `ttl` seconds. Returns None while another owner has it.

        An owner that has the name already gets a new lease with a higher fence.
        """

    async def renew(self, lease: Lease, *, ttl: float) -> bool:
        """Extend the lease to `ttl` seconds from now. Returns False when it expired, was released or was taken over."""

    async def renew_all(self, leases: Sequence[Lease], *, ttl: float) -> Sequence[bool]:
        """Extend many leases in one round trip. Returns the result for each."""

    async def release(self, lease: Lease) -> None:
        """Release the lease. Does nothing when another owner has the name."""

    async def release_all(self, owner: str) -> int:
        """Release all leases of this owner and return their number. A process frees those of its dead predecessor."""
