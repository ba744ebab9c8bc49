"""Does the work of a build under its lease, one group of calls after the other, until nothing waits."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

from nightshift.eventlog.fold_cache import FoldCache
from nightshift.eventlog.leases.port import Lease, Leases
from nightshift.sandbox_gateway.domain.call_order import groups
from nightshift.sandbox_gateway.domain.sandbox_state import SandboxState
from nightshift.sandbox_gateway.usecases.call_runner import CallRunner
from nightshift.sandbox_gateway.usecases.sandbox_lifecycle import SandboxLifecycle, StateOutdated
from nightshift.sandbox_gateway.usecases.stall_reporter import StallReporter

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class BuildWorker:
    """`later(build, seconds)` must call `work` for this build again after so many seconds.

    After `lease_s` seconds another gateway takes over the builds of a dead one.
    """

    states: FoldCache[SandboxState]
    leases: Leases
    owner: str
    lifecycle: SandboxLifecycle
    calls: CallRunner
    stalls: StallReporter
    later: Callable[[str, float], None]
    lease_s: float = 6.0
    _cancelled: dict[str, asyncio.Event] = field(default_factory=dict)

    async def work(self, build_id: str) -> None:
        """Do everything that waits in this build. After an error, append why it waits and call `later`.

        When another gateway holds the build's lease, call `later` for the time when the lease may have expired.
        """
        try:
            state = await self.states.read(build_id)
            if await self.calls.answer_at_once(state) or state.to_close or state.to_pause:
                await self._under_lease(build_id)
            self.stalls.succeeded(build_id)
        except Exception as error:  # noqa: BLE001 - whatever stops a build, it is tried again and said in the log
            self.later(build_id, await self.stalls.failed(build_id, error))

    async def stop_if_ended(self, build_id: str) -> None:
        """Stop the commands that run here for this build, when the log says that the build has ended."""
        running = self._cancelled.get(build_id)
        if running is not None and (await self.states.read(build_id)).ended is not None:
            running.set()

    async def _under_lease(self, build_id: str) -> None:
        lease = await self.leases.acquire(f"sandbox/{build_id}", self.owner, ttl=self.lease_s)
        if lease is None:
            self.later(build_id, self.lease_s / 2 * random.uniform(0.8, 1.2))  # noqa: S311 - a jitter
            return
        async with self._held(build_id, lease):
            while True:
                state = await self.states.read(build_id)
                try:
                    if not await self._step(state):
                        return
                except StateOutdated:
                    continue

    @asynccontextmanager
    async def _held(self, build_id: str, lease: Lease) -> AsyncIterator[None]:
        """Hold the lease. Losing it cancels the work: the command in the sandbox runs on, and the next gateway
        attaches to it.
        """
        worker = asyncio.current_task()
        self._cancelled[build_id] = asyncio.Event()

        async def keep() -> None:
            while True:
                await asyncio.sleep(self.lease_s / 3)
                if not await self.leases.renew(lease, ttl=self.lease_s):
                    _log.warning("lease.lost", build_id=build_id)
                    self.later(build_id, self.lease_s)
                    if worker is not None:
                        worker.cancel()
                    return
                await self.stop_if_ended(build_id)  # whichever replica got the message

        keeper = asyncio.create_task(keep(), name=f"lease {build_id}")
        try:
            yield
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            self._cancelled.pop(build_id, None)
            await self.leases.release(lease)

    async def _step(self, state: SandboxState) -> bool:
        """Do one thing that waits. Returns False when nothing does."""
        if state.pending:
            group = groups(state.pending.values())[0]
            await self.calls.run(state, group, self._cancelled[state.build_id])
        elif state.to_close is not None:
            await self.lifecycle.close(state)
        elif state.to_pause is not None:
            await self.lifecycle.pause(state)
        else:
            return False
        return True
