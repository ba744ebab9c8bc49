"""Decides which builds this replica runs. Their number is limited, and each has a lease.

The replica also takes over builds that no live replica runs.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from typing import Any

import structlog

from nightshift.eventlog.backoff import Backoff
from nightshift.eventlog.errors import Fault, NightshiftError, Transient
from nightshift.eventlog.leases.port import Lease, Leases
from nightshift.orchestrator.domain.commands import CancelBuild
from nightshift.orchestrator.ports import RefusedKey, UnownedBuilds
from nightshift.orchestrator.usecases.provider_access import ProviderAccess
from nightshift.orchestrator.usecases.runner import Runner
from nightshift.servicekit.metrics import LEASES_LOST
from nightshift.servicekit.replicas import Work

_log = structlog.get_logger(__name__)

#: Seconds after which this replica retries a failed run.
_BACKOFF = Backoff(1.0, 300.0)
#: Seconds in which a build that was released belongs to the other replicas.
_LEFT_TO_OTHERS_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """The settings of the scheduler. Times are in seconds.

    `capacity` is the most builds that this replica runs at once. `per_account` is the most active builds of one
    account.
    """

    owner: str
    capacity: int = 200
    per_account: int = 100
    lease_s: float = 10.0
    look_every_s: float = 2.0


@dataclass(slots=True)
class _Active:
    runner: Runner
    lease: Lease
    task: asyncio.Task[None]


@dataclass(frozen=True, slots=True)
class _Failed:
    """How many runs of a build have failed in a row, and the event loop's time of the next try."""

    failures: int = 0
    retry_at: float = 0.0


class BuildScheduler:
    """Runs builds, each in a task of its own."""

    def __init__(
        self,
        leases: Leases,
        unowned: UnownedBuilds,
        make_runner: Callable[[str], Runner],
        *,
        provider: ProviderAccess,
        settings: SchedulerSettings,
    ) -> None:
        self._leases = leases
        self._unowned = unowned
        self._make_runner = make_runner
        self._provider = provider
        self._settings = settings
        self._active: dict[str, _Active] = {}
        self._starting: set[str] = set()
        self._failed: dict[str, _Failed] = {}
        self._released: dict[
            str, float
        ] = {}  # builds left to other replicas → until when, in the loop's time
        self._drained = False
        self._look = asyncio.Event()
        self._closing = False

    @property
    def active(self) -> int:
        """The number of builds that run here."""
        return len(self._active)

    async def start(self, build_id: str) -> bool:
        """Run this build if there is room and no other replica runs it. Returns whether it now runs here."""
        if build_id in self._active:
            self._active[build_id].runner.notify(2**63)
            return True
        if self._closing or build_id in self._starting or not self._has_room():
            return False
        self._starting.add(build_id)
        try:
            name = f"build/{build_id}"
            lease = await self._leases.acquire(name, self._settings.owner, ttl=self._settings.lease_s)
            if lease is None:
                return False
            runner = self._make_runner(build_id)
            # The run gets a context of its own, because it outlives by hours the message that starts it.
            task = asyncio.create_task(self._run(runner), name=f"build {build_id}", context=Context())
            self._active[build_id] = _Active(runner, lease, task)
            return True
        finally:
            self._starting.discard(build_id)

    @property
    def work(self) -> Work:
        """The number of builds that run here, and how many more this replica would run."""
        ends = self._drained or self._closing
        return Work(self.active, 0 if ends else max(self._settings.capacity - self.active, 0))

    def drain(self, drained: bool) -> None:
        """If `drained`, start no more builds, and release each running build when its model call in flight has ended.

        Otherwise start builds again.
        """
        self._drained = drained
        if drained:
            for active in self._active.values():
                active.runner.drain()
        self._look.set()

    def release_some(self, number: int) -> int:
        """Release this number of builds, each when its model call has ended, and leave it to others for ten seconds.

        Returns how many are being released.
        """
        chosen = [one for one in self._active.values() if one.runner.build_id not in self._released][:number]
        for active in chosen:
            self._released[active.runner.build_id] = math.inf  # until its run has ended
            active.runner.drain()
        return len(chosen)

    def look(self) -> None:
        """Let the scheduler search for builds to run soon, because a build was accepted."""
        self._look.set()

    def notify(self, build_id: str, version: int) -> None:
        """Tell the run of this build, if it runs here, that the log has an event at `version`."""
        if (active := self._active.get(build_id)) is not None:
            active.runner.notify(version)

    async def cancel(self, build_id: str, command: CancelBuild) -> None:
        """If this build runs here, let its run end the build with the command. Otherwise do nothing.

        The run knows what its model call has cost so far.
        """
        if (active := self._active.get(build_id)) is not None:
            active.runner.cancel(command)
            await asyncio.wait({active.task})

    async def run(self) -> None:
        """Renew the leases, and look for builds without an owner. Never returns."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._renew_forever())
            group.create_task(self._look_forever())

    async def close(self, cut_short: asyncio.Event | None = None) -> None:
        """Stop all runs and release their leases.

        A run with a model call in flight first appends the outcome of the call. Otherwise the next owner would make and
        pay the call again. When `cut_short` is set, the runs no longer wait for their calls.
        """
        self._closing = True
        held = list(self._active.values())
        if not held:
            return
        _log.info("builds.draining", builds=len(held))
        for active in held:
            active.runner.drain()
        drained = asyncio.gather(*(active.task for active in held), return_exceptions=True)
        cut = asyncio.create_task((cut_short or asyncio.Event()).wait(), name="drain cut short")
        renewal = asyncio.create_task(self._renew_forever(), name="leases while draining")
        try:
            ends: set[asyncio.Future[Any]] = {drained, cut}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            late = [active.task for active in held if not active.task.done()]
            for task in (*late, cut, renewal):
                task.cancel()
            await asyncio.gather(*late, cut, renewal, return_exceptions=True)
            _log.info("builds.released", builds=len(held), cut_short=len(late))

    async def _run(self, runner: Runner) -> None:
        build_id = runner.build_id
        try:
            with structlog.contextvars.bound_contextvars(build_id=build_id):
                await runner.run()
            self._failed.pop(build_id, None)
        except Exception as error:  # noqa: BLE001 - one build that fails must not end the others
            failed = self._note_failure(build_id, error)
            # A server that was unavailable only for a second is not worth an event.
            if failed.failures > 1 or not isinstance(error, Transient):
                await runner.report(error)
        finally:
            lease = self._active.pop(build_id).lease
            if build_id in self._released:
                self._released[build_id] = asyncio.get_running_loop().time() + _LEFT_TO_OTHERS_S
            with suppress(NightshiftError):
                await self._leases.release(lease)
            with suppress(NightshiftError):
                await self._provider.run_ended(build_id)
            self._look.set()  # there is now room for another build

    def _note_failure(self, build_id: str, error: Exception) -> _Failed:
        failures = self._failed.get(build_id, _Failed()).failures + 1
        delay = _BACKOFF.delay(failures, jitter=1.0)
        failed = _Failed(failures, asyncio.get_running_loop().time() + delay)
        self._failed[build_id] = failed
        expected = isinstance(error, NightshiftError) and not isinstance(error, Fault)
        _log.error(
            "build.run_failed",
            build_id=build_id,
            error=str(error),
            failures=failures,
            retry_in_s=delay,
            exc_info=None if expected else error,
        )
        return failed

    def _has_room(self) -> bool:
        return not self._drained and len(self._active) + len(self._starting) < self._settings.capacity

    async def _renew_forever(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_s / 4)
            await self._renew_all()

    async def _renew_all(self) -> None:
        """Renew all leases.

        When the database is unavailable, the builds of this replica run on, because no other replica can take them
        either.
        """
        held = list(self._active.values())
        leases = [active.lease for active in held]
        try:
            renewed = await self._leases.renew_all(leases, ttl=self._settings.lease_s)
        except NightshiftError as error:
            _log.warning("build.leases_not_renewed", builds=len(held), error=str(error))
            return
        lost = [active for active, is_renewed in zip(held, renewed, strict=True) if not is_renewed]
        await asyncio.gather(*(self._acquire_again(active) for active in lost))

    async def _acquire_again(self, active: _Active) -> None:
        """Acquire an expired lease again. When another replica has acquired it meanwhile, stop the run."""
        lease, build_id = active.lease, active.runner.build_id
        if self._active.get(build_id) is not active:
            return  # the run has ended and released its lease
        try:
            acquired = await self._leases.acquire(lease.name, lease.owner, ttl=self._settings.lease_s)
        except NightshiftError as error:
            _log.warning("build.lease_not_renewed", build_id=build_id, error=str(error))
            return
        if acquired is None:
            LEASES_LOST.inc()
            _log.warning("build.lease_lost", build_id=build_id)
            active.task.cancel()
        elif active.task.done():
            await self._leases.release(acquired)
        else:
            active.lease = acquired

    async def _look_forever(self) -> None:
        while True:
            self._look.clear()
            if self._has_room():
                began, active = asyncio.get_running_loop().time(), self.active
                try:
                    await self._take_over()
                except NightshiftError as error:
                    _log.warning("build.unowned_not_read", error=str(error))
                if self.active == active:
                    # Wait a little: each request of a burst asks for a look, and each look takes long when the queue is
                    # long.
                    await asyncio.sleep(asyncio.get_running_loop().time() - began)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.look_every_s):
                    await self._look.wait()

    async def _take_over(self) -> None:
        await self._provider.refresh()
        now = asyncio.get_running_loop().time()
        room = self._settings.capacity - len(self._active) - len(self._starting)
        self._released = {build: until for build, until in self._released.items() if until > now}
        limit = room + len(self._failed) + len(self._released)
        for build_id in await self._unowned.unowned(limit=limit, per_account=self._settings.per_account):
            if self._failed.get(build_id, _Failed()).retry_at <= now and build_id not in self._released:
                await self.start(build_id)
        waiting = await self._waiting_for_provider(max(room, 0))
        for refused in self._provider.refusals:
            await self._try_the_key_again(refused, waiting)
        for build_id in self._provider.startable(waiting):
            await self.start(build_id)

    async def _waiting_for_provider(self, room: int) -> Sequence[str]:
        """Return the ids of builds that wait for the provider, the longest waiting first.

        Reads as many as this replica has room for, and one more for each build that it knows to be refused by the
        provider.
        """
        limit = max(room, 1) + self._provider.blocked
        waiting = await self._unowned.waiting_for_provider(limit=limit)
        if len(waiting) < limit:
            self._provider.forget_all_but(waiting)
        return waiting

    async def _try_the_key_again(self, refused: RefusedKey, waiting: Sequence[str]) -> None:
        """Start the build that has waited longest for the provider, when it is time to try the refused key."""
        build_id = self._provider.probes_of(refused, waiting)
        if build_id is not None and await self._provider.take_probe(refused):
            self._provider.probe(refused, build_id)
            if not await self.start(build_id):
                await self._provider.run_ended(build_id)
