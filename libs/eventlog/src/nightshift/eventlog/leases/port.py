"""Leases: who works on what, until when, by one clock. The higher fence is the owner's, whatever others think."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Lease:
    """`owner` may work on `name` until it expires. Each taking of a name has a higher fence than every one before."""

    name: str
    owner: str
    fence: int


class Leases(Protocol):
    """Every call may raise `Unavailable`."""

    async def acquire(self, name: str, owner: str, *, ttl: float) -> Lease | None:
        """Take a name that is free or expired, for `ttl` seconds; none while another owner has it.

        An owner that has it already takes it anew, with a higher fence: after a restart it cannot know what
        its former self still sends.
        """
        ...

    async def renew(self, lease: Lease, *, ttl: float) -> bool:
        """`ttl` seconds from now; false when it is lost: taken over, released, or expired."""
        ...

    async def renew_all(self, leases: Sequence[Lease], *, ttl: float) -> Sequence[bool]:
        """The same for each of them, at the price of one."""
        ...

    async def release(self, lease: Lease) -> None:
        """Free it for the next. A lease that is no longer ours is left alone."""
        ...

    async def release_all(self, owner: str) -> int:
        """Free whatever this owner has, under every fence; how many that were.

        For a process that starts under the name of its former self, which is dead: nobody need wait until what it
        held expires.
        """
        ...
