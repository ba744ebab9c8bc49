"""Does the pending work of a build under its lease, one group of calls after the other."""

import asyncio
import random
from collections.abc import Callable
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
    """After `lease_s` seconds another gateway takes over the builds of a dead one.

    While `takes_no_more` returns True the worker begins no further group of calls, and another gateway continues.
    """

    states: FoldCache[SandboxState]
    leases: Leases
    owner: str
    lifecycle: SandboxLifecycle
    calls: CallRunner
    stalls: StallReporter
    lease_s: float = 6.0
    takes_no_more: Callable[[], bool] = lambda: False
    _cancelled: dict[str, asyncio.Event] = field(default_factory=dict)

    async def work(self, build_id: str) -> float | None:
        """Run every pending tool call of this build, and close or pause its sandbox when due.

        When the sandbox does not answer, appends the reason to the build's stream.

        Returns the seconds until the next attempt after an error or while another gateway holds the build's lease.
        Returns None when nothing is pending.
        """
        retry_s = None
        try:
            state = await self.states.read(build_id)
            waits = await self.calls.answer_at_once(state) or state.to_close or state.to_pause
            if waits or state.to_deliver or await self.lifecycle.preview_expired(state):
                retry_s = await self._under_lease(build_id)
            self.stalls.succeeded(build_id)
        except Exception as error:  # noqa: BLE001 - every error is retried and its reason is appended to the log
            retry_s = await self.stalls.failed(build_id, error)
        return retry_s

    async def stop_if_ended(self, build_id: str) -> None:
        """Stop the commands that run here for this build, when the log says that the build has ended."""
        running = self._cancelled.get(build_id)
        if running is not None and (await self.states.read(build_id)).ended is not None:
            running.set()

    async def _under_lease(self, build_id: str) -> float | None:
        """Returns the seconds until the next attempt when another gateway holds or takes the lease."""
        lease = await self.leases.acquire(f"sandbox/{build_id}", self.owner, ttl=self.lease_s)
        if lease is None:
            return self.lease_s / 2 * random.uniform(0.8, 1.2)  # noqa: S311 - a jitter
        self._cancelled[build_id] = asyncio.Event()
        lost = asyncio.timeout(None)
        keeper = asyncio.create_task(self._keep(build_id, lease, lost), name=f"lease {build_id}")
        try:
            async with lost:
                await self._do_all(build_id)
        except TimeoutError:
            if not lost.expired():
                raise
            return self.lease_s
        finally:
            keeper.cancel()
            await asyncio.gather(keeper, return_exceptions=True)
            self._cancelled.pop(build_id, None)
            await self.leases.release(lease)
        return None

    async def _keep(self, build_id: str, lease: Lease, lost: asyncio.Timeout) -> None:
        """Renew the lease. When it is lost, let `lost` expire, which cancels the work.

        The command in the sandbox runs on, and the next gateway waits for its end.
        """
        while True:
            await asyncio.sleep(self.lease_s / 3)
            if not await self.leases.renew(lease, ttl=self.lease_s):
                _log.warning("lease.lost", build_id=build_id)
                lost.reschedule(0)
                return
            await self.stop_if_ended(build_id)  # the message about the end may have reached another replica

    async def _do_all(self, build_id: str) -> None:
        while not self.takes_no_more():
            try:
                if not await self._step(await self.states.read(build_id)):
                    return
            except StateOutdated:
                continue

    async def _step(self, state: SandboxState) -> bool:
        """Do the next thing that waits. Returns False when nothing waits."""
        if state.pending:
            group = groups(state.pending.values())[0]
            await self.calls.run(state, group, self._cancelled[state.build_id])
        elif state.to_close is not None:
            await self.lifecycle.close(state)
        elif state.to_pause is not None:
            await self.lifecycle.pause(state)
        elif state.to_deliver is not None:
            await self.calls.delivery.deliver(state)
        elif await self.lifecycle.preview_expired(state):
            await self.lifecycle.close(state)
        else:
            return False
        return True
