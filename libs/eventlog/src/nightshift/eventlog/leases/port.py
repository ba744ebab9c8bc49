"""The port of leases. An owner may work on a name until its lease expires by the clock of the server that stores the
leases.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Lease:
    """A lease of `owner` on `name`. Each new lease on the name has a higher `fence`."""

    name: str
    owner: str
    fence: int


class Leases(Protocol):
    """Acquires, renews and releases leases. Every call may raise Unavailable."""

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        """Acquire a lease on the name for `ttl` seconds. Returns None while another owner has an unexpired lease on
        it.

        An owner that already has a lease on the name gets a new one with a higher fence.
        """

    async def renew(self, lease: Lease, *, ttl: float) -> bool:
        """Extend the lease to `ttl` seconds from now. Returns False when it expired, was released or was taken over."""

    async def renew_all(self, leases: Sequence[Lease], *, ttl: float) -> Sequence[bool]:
        """Renew several leases in one round trip. Returns for each, in order, the result that `renew` would return."""

    async def release(self, lease: Lease) -> None:
        """Release the lease, so that others can acquire the name. Does nothing when the name has a newer lease."""

    async def release_all(self, owner: str) -> int:
        """Release all leases of this owner and return their number.

        A process calls it at its start, to free the leases of a dead process that had the same owner name.
        """
