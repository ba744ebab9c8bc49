"""Which builds this replica runs: bounded, each under a lease, taken over when their owner is gone."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass

import structlog

from nightshift.eventlog.errors import Fault, NightshiftError, Transient
from nightshift.eventlog.leases.port import Lease, Leases
from nightshift.orchestrator.domain.commands import CancelBuild
from nightshift.orchestrator.ports import UnownedBuilds
from nightshift.orchestrator.usecases.runner import Runner

_log = structlog.get_logger(__name__)

#: A build whose run failed is left alone for so long before it is taken again, twice as long each time. Seconds.
_REST, _LONGEST_REST = 1.0, 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """Times in seconds."""

    owner: str
    capacity: int = 200
    lease_s: float = 10.0
    look_every_s: float = 2.0


@dataclass(slots=True)
class _Active:
    runner: Runner
    lease: Lease
    task: asyncio.Task[None]


class BuildScheduler:
    """The active builds of this process."""

    def __init__(
        self,
        leases: Leases,
        unowned: UnownedBuilds,
        make_runner: Callable[[str], Runner],
        *,
        settings: SchedulerSettings,
    ) -> None:
        self._leases = leases
        self._unowned = unowned
        self._make_runner = make_runner
        self._settings = settings
        self._active: dict[str, _Active] = {}
        self._taking: set[str] = set()
        self._resting: dict[str, tuple[float, float]] = {}  # build → (until, how long)
        self._look = asyncio.Event()
        self._closing = False

    @property
    def active(self) -> int:
        """How many builds run here."""
        return len(self._active)

    async def offer(self, build_id: str) -> bool:
        """Run this build, when there is room and nobody else does. True when it runs here now."""
        if build_id in self._active:
            self._active[build_id].runner.hear(2**63)
            return True
        if self._closing or build_id in self._taking or not self._has_room():
            return False
        self._taking.add(build_id)
        try:
            name = f"build/{build_id}"
            lease = await self._leases.acquire(name, self._settings.owner, ttl=self._settings.lease_s)
            if lease is None:
                return False
            runner = self._make_runner(build_id)
            # Not in the context of the message that offers it: the run outlives that by hours.
            task = asyncio.create_task(self._run(runner), name=f"build {build_id}", context=Context())
            self._active[build_id] = _Active(runner, lease, task)
            return True
        finally:
            self._taking.discard(build_id)

    def hear(self, build_id: str, version: int) -> None:
        """Something was appended to a build; of interest when it runs here."""
        if (active := self._active.get(build_id)) is not None:
            active.runner.hear(version)

    async def cancel(self, build_id: str, command: CancelBuild) -> None:
        """Have a build that runs here cancelled by its run, which knows what its model call has cost so far."""
        if (active := self._active.get(build_id)) is not None:
            active.runner.cancel(command)
            await asyncio.wait({active.task})

    async def keep(self) -> None:
        """Renew the leases and look for builds without an owner, for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_for_ever())
            group.create_task(self._look_for_ever())

    async def close(self) -> None:
        """Stop all runs and free their builds for others."""
        self._closing = True
        tasks = [active.task for active in self._active.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, runner: Runner) -> None:
        build_id = runner.build_id
        try:
            with structlog.contextvars.bound_contextvars(build_id=build_id):
                await runner.run()
            self._resting.pop(build_id, None)
        except Exception as error:  # noqa: BLE001 - the boundary of a build: one that fails must not end the others
            rest = self._rest(build_id, error)
            # A server that was away for a second is no news; what is ours, or lasts, is.
            if rest > _REST or not isinstance(error, Transient):
                await runner.report(error)
        finally:
            lease = self._active.pop(build_id).lease
            with suppress(NightshiftError):
                await self._leases.release(lease)
            self._look.set()  # there is room

    def _rest(self, build_id: str, error: Exception) -> float:
        now = asyncio.get_running_loop().time()
        rest = min(self._resting.get(build_id, (0.0, _REST / 2))[1] * 2, _LONGEST_REST)
        self._resting[build_id] = (now + rest, rest)
        expected = isinstance(error, NightshiftError) and not isinstance(error, Fault)
        _log.error(
            "build.run_failed",
            build_id=build_id,
            error=str(error),
            retry_in_s=rest,
            exc_info=None if expected else error,
        )
        return rest

    def _has_room(self) -> bool:
        return len(self._active) + len(self._taking) < self._settings.capacity

    async def _renew_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 4)
            await self._renew_all()

    async def _renew_all(self) -> None:
        """While the database is away nobody else can have the builds either: their runs go on, and wait there."""
        held = list(self._active.values())
        leases = [active.lease for active in held]
        try:
            kept = await self._leases.renew_all(leases, ttl=self._settings.lease_s)
        except NightshiftError as error:
            _log.warning("leases were not renewed", builds=len(held), error=str(error))
            return
        lost = [active for active, is_kept in zip(held, kept, strict=True) if not is_kept]
        await asyncio.gather(*(self._take_again(active) for active in lost))

    async def _take_again(self, active: _Active) -> None:
        """A lease that ran out, and that nobody took meanwhile, is ours anew. Else the build is another's."""
        lease, build_id = active.lease, active.runner.build_id
        if self._active.get(build_id) is not active:
            return  # it has ended, and its lease was released
        try:
            taken = await self._leases.acquire(lease.name, lease.owner, ttl=self._settings.lease_s)
        except NightshiftError as error:
            _log.warning("lease was not renewed", build_id=build_id, error=str(error))
            return
        if taken is None:
            _log.warning("lease lost, the build is another's", build_id=build_id)
            active.task.cancel()
        elif active.task.done():
            await self._leases.release(taken)
        else:
            active.lease = taken

    async def _look_for_ever(self) -> None:
        while True:
            self._look.clear()
            if self._has_room():
                try:
                    await self._take_over()
                except NightshiftError as error:
                    _log.warning("could not look for builds without an owner", error=str(error))
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.look_every_s):
                    await self._look.wait()

    async def _take_over(self) -> None:
        now = asyncio.get_running_loop().time()
        room = self._settings.capacity - len(self._active) - len(self._taking)
        for build_id in await self._unowned.unowned(limit=room + len(self._resting)):
            if self._resting.get(build_id, (0.0, 0.0))[0] <= now:
                await self.offer(build_id)
