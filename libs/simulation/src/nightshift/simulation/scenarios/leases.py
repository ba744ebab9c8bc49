"""A scenario: workers that crash, hang and lose answers share leases. Each lease guards a counter of steps.

Invariants: by the server's clock a lease has one owner at a time. Fences only rise. Writes of an owner that lost its
lease are refused, so no accepted step is lost.
"""

import asyncio
from dataclasses import dataclass, field
from functools import partial

from nightshift.eventlog.errors import Unavailable
from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.leases.port import Lease, Leases
from nightshift.simulation.world import Violation, World

NAMES = ("build-1", "build-2")
WORKERS = 3
STEPS = 3
TTL = 3.0


@dataclass(slots=True)
class Grant:
    """The newest lease on a name, and the virtual time at which it expires."""

    lease: Lease
    until: float


@dataclass(slots=True)
class Counter:
    """The data that a lease guards. With `fenced`, it refuses a fence that is older than the newest it has seen."""

    fenced: bool
    value: int = 0
    newest: int = 0
    accepted: list[int] = field(default_factory=list)

    async def read(self, fence: int) -> int:
        if self.fenced:
            self.newest = max(self.newest, fence)
        return self.value

    async def write(self, fence: int, value: int) -> bool:
        if self.fenced and fence < self.newest:
            return False
        self.value = value
        self.accepted.append(fence)
        return True


class WatchedLeases:
    """The leases at the server. Checks each answer against the earlier ones and raises Violation."""

    def __init__(self, world: World, leases: Leases) -> None:
        self._world = world
        self._leases = leases
        self._grants: dict[str, Grant] = {}

    async def acquire(self, name: str, owner: str) -> Lease | None:
        lease = await self._leases.acquire(name, owner, ttl=TTL)
        now, before = self._world.loop.time(), self._grants.get(name)
        if lease is None:
            return None
        if before is not None:
            if lease.fence <= before.lease.fence:
                raise Violation(f"{name}: fence {lease.fence} after {before.lease.fence}")
            if before.lease.owner != owner and before.until > now:
                raise Violation(f"{name}: {owner} acquired it while {before.lease.owner} holds it")
        self._grants[name] = Grant(lease, now + TTL)
        return lease

    async def renew(self, lease: Lease) -> bool:
        renewed = await self._leases.renew(lease, ttl=TTL)
        now, grant = self._world.loop.time(), self._grants[lease.name]
        if renewed:
            if grant.lease != lease or grant.until <= now:
                raise Violation(f"{lease.name}: fence {lease.fence} was renewed after it was lost")
            grant.until = now + TTL
        return renewed

    async def release(self, lease: Lease) -> None:
        await self._leases.release(lease)
        grant = self._grants[lease.name]
        if grant.lease == lease:
            grant.until = self._world.loop.time()


@dataclass(frozen=True, slots=True)
class Worker:
    """A replica that acquires a lease and adds 1 to its counter, again and again until both counters are complete."""

    world: World
    leases: WatchedLeases
    counters: dict[str, Counter]
    name: str
    done: dict[str, int]

    async def main(self) -> None:
        while (left := [name for name in NAMES if self.done[name] < STEPS]) != []:
            name = self.world.draws.choice(left)
            try:
                await self._take(name)
            except Unavailable:
                self.world.note(f"gives up {name}")
            await self.world.pause()

    async def _take(self, name: str) -> None:
        lease = await self.world.remote("acquire", lambda: self.leases.acquire(name, self.name))
        if lease is not None:
            await self._work(lease)

    async def _work(self, lease: Lease) -> None:
        counter = self.counters[lease.name]
        value = await self.world.remote("read", lambda: counter.read(lease.fence))
        if await self.world.remote("renew", lambda: self.leases.renew(lease)):
            if self.world.strikes(0.3):  # the process hangs, as after SIGSTOP, without noticing
                await asyncio.sleep(self.world.draws.uniform(0, 2 * TTL))
            step = partial(self._write, counter, lease, value + 1)
            await self.world.remote("write", step)
        await self.world.remote("release", lambda: self.leases.release(lease))

    async def _write(self, counter: Counter, lease: Lease, value: int) -> None:
        if await counter.write(lease.fence, value):
            self.done[lease.name] += 1


async def scenario(world: World, *, fenced: bool = True) -> None:
    """Runs the workers and checks the counters.

    With `fenced` False, the counters accept old fences and steps can get lost.
    """
    leases = WatchedLeases(world, MemoryLeases())
    counters = {name: Counter(fenced) for name in NAMES}
    done = dict.fromkeys(NAMES, 0)
    workers = [Worker(world, leases, counters, f"worker-{number}", done) for number in range(WORKERS)]
    await world.finish([world.start(worker.name, worker.main) for worker in workers], within=3600)
    for name, counter in counters.items():
        if counter.value != len(counter.accepted):
            raise Violation(f"{name}: {len(counter.accepted)} steps accepted, {counter.value} counted")
        if counter.accepted != sorted(counter.accepted):
            raise Violation(f"{name}: a stale owner's step was accepted: {counter.accepted}")
