"""A replica keeps its builds by renewing their leases together, on a virtual clock."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from tests.support.memory_provider_key import KeyTable, MemoryProviderKey

from nightshift.eventlog.leases.memory import MemoryLeases
from nightshift.eventlog.leases.port import Lease
from nightshift.orchestrator.usecases.build_scheduler import BuildScheduler, SchedulerSettings
from nightshift.orchestrator.usecases.provider_access import ProviderAccess
from nightshift.servicekit.replicas import Work
from nightshift.simulation.loop import SimulatedLoop
from nightshift.simulation.world import BEGINNING

TTL = 10.0


class Run:
    """Stands for a build that runs until it is drained."""

    def __init__(self, build_id: str) -> None:
        self.build_id = build_id
        self.stopped = False
        self.call_s = 0.0  # how long its model call still lasts when it is drained
        self._drained = asyncio.Event()

    def drain(self) -> None:
        self._drained.set()

    def notify(self, version: int) -> None: ...

    async def run(self) -> None:
        try:
            await self._drained.wait()
            await asyncio.sleep(self.call_s)
        finally:
            self.stopped = True


class Nobody:
    async def unowned(self, *, limit: int, per_account: int) -> Sequence[str]:
        return ()

    async def waiting_for_provider(self, *, limit: int) -> Sequence[str]:
        return ()


class Unowned(Nobody):
    """Names those of the given builds that have no live lease."""

    def __init__(self, leases: MemoryLeases, *builds: str) -> None:
        self.looks = 0
        self._leases = leases
        self._builds = builds

    async def unowned(self, *, limit: int, per_account: int) -> Sequence[str]:
        self.looks += 1
        free = []
        for build in self._builds:
            lease = await self._leases.acquire(f"build/{build}", "looker", ttl=TTL)
            if lease is not None:
                await self._leases.release(lease)
                free.append(build)
        return free


class Counted(MemoryLeases):
    """Remembers how many leases each renewal was for."""

    def __init__(self) -> None:
        super().__init__()
        self.renewals: list[int] = []

    async def renew_all(self, leases: Sequence[Lease], *, ttl: float) -> Sequence[bool]:
        self.renewals.append(len(leases))
        return await super().renew_all(leases, ttl=ttl)


def on_a_virtual_clock(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    loop = SimulatedLoop(random.Random(1))
    asyncio.set_event_loop(loop)
    try:
        loop.run_until_complete(work())
    finally:
        asyncio.set_event_loop(None)
        loop.close()


async def working(
    leases: MemoryLeases, *builds: str
) -> tuple[BuildScheduler, dict[str, Run], asyncio.Task[None]]:
    runs = {build: Run(build) for build in builds}

    def make(build_id: str) -> Any:
        if runs[build_id].stopped:
            runs[build_id] = Run(build_id)
        return runs[build_id]

    settings = SchedulerSettings(owner="me", lease_s=TTL)
    provider = ProviderAccess(MemoryProviderKey(KeyTable(), "k", now=lambda: BEGINNING))
    scheduler = BuildScheduler(
        leases,
        Nobody(),
        make,
        provider=provider,
        settings=settings,
    )
    for build in builds:
        assert await scheduler.start(build)
    return scheduler, runs, asyncio.create_task(scheduler.run())


def test_all_builds_are_renewed_in_one_call_and_stay() -> None:
    async def work() -> None:
        leases = Counted()
        scheduler, runs, keeping = await working(leases, "a", "b", "c")
        await asyncio.sleep(5 * TTL)
        assert set(leases.renewals) == {3}
        assert scheduler.active == 3
        assert not any(run.stopped for run in runs.values())
        assert await leases.acquire("build/b", "another", ttl=TTL) is None
        keeping.cancel()
        await scheduler.close()

    on_a_virtual_clock(work)


def test_a_build_that_another_replica_took_is_stopped() -> None:
    async def work() -> None:
        leases = Counted()
        scheduler, runs, keeping = await working(leases, "a", "b", "c")
        await leases.release_all("me")  # as if this process had stood still until all of them ran out
        assert await leases.acquire("build/b", "another", ttl=1000) is not None
        await asyncio.sleep(TTL)
        assert [run.stopped for run in runs.values()] == [False, True, False]
        assert scheduler.active == 2
        for build in ("a", "c"):  # nobody had taken them: they are ours anew
            assert await leases.acquire(f"build/{build}", "another", ttl=TTL) is None
        keeping.cancel()
        await scheduler.close()

    on_a_virtual_clock(work)


def test_a_drained_replica_releases_its_builds_and_starts_none() -> None:
    async def work() -> None:
        leases = Counted()
        scheduler, _, keeping = await working(leases, "a", "b")
        await asyncio.sleep(1)
        scheduler.drain(True)
        await asyncio.sleep(1)
        assert scheduler.work == Work(held=0, room=0)
        assert await leases.acquire("build/a", "another", ttl=TTL) is not None
        assert not await scheduler.start("b")
        scheduler.drain(False)
        assert await scheduler.start("b")
        keeping.cancel()
        await scheduler.close()

    on_a_virtual_clock(work)


def test_builds_that_are_released_belong_to_others_for_a_while() -> None:
    async def work() -> None:
        leases = Counted()
        scheduler, _, keeping = await working(leases, "a", "b", "c")
        unowned = Unowned(leases, "a", "b", "c")
        scheduler._unowned = unowned
        await asyncio.sleep(1)
        assert scheduler.release_some(2) == 2
        await asyncio.sleep(8)
        assert unowned.looks > 2
        assert scheduler.active == 1
        await asyncio.sleep(8)
        assert scheduler.active == 3  # nobody else took them
        keeping.cancel()
        await scheduler.close()

    on_a_virtual_clock(work)


def test_a_long_call_delays_a_release_and_others_still_come_first() -> None:
    async def work() -> None:
        leases = Counted()
        scheduler, runs, keeping = await working(leases, "a", "b")
        runs["a"].call_s = 30.0
        scheduler._unowned = Unowned(leases, "a", "b")
        assert scheduler.release_some(1) == 1
        await asyncio.sleep(20)
        assert scheduler.release_some(2) == 1  # "a" is being released already
        await asyncio.sleep(15)  # the call has ended 5 s ago
        assert "a" not in scheduler._active
        await asyncio.sleep(15)
        assert scheduler.active == 2
        keeping.cancel()
        await scheduler.close()

    on_a_virtual_clock(work)


def test_a_replica_that_stops_has_no_room() -> None:
    async def work() -> None:
        scheduler, runs, keeping = await working(Counted(), "a")
        runs["a"].call_s = 5.0
        assert scheduler.work.room > 0
        closing = asyncio.create_task(scheduler.close())
        await asyncio.sleep(1)
        assert scheduler.work == Work(held=1, room=0)
        keeping.cancel()
        await closing

    on_a_virtual_clock(work)
