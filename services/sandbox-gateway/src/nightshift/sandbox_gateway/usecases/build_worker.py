"""Does the pending work of a build under the build's lease, one group of tool calls after another."""

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
from nightshift.servicekit import tracing
from nightshift.servicekit.metrics import LEASES_LOST

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class BuildWorker:
    """Does the pending work of builds. Each build has a lease of `lease_s` seconds, which the worker renews.

    When this process dies, another replica takes over its builds after `lease_s` seconds. While `takes_no_more` returns
    True, the worker begins no further group of calls, and another replica continues.
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
        """Run all pending tool calls of a build, and close or pause its sandbox when that is due.

        When the sandbox does not answer, appends the reason to the build's stream. Returns the seconds until the next
        attempt, after an error or while another replica has the lease. Returns None when nothing is pending.
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
        """Stop the commands of this build that this process runs, if the log says that the build has ended."""
        running = self._cancelled.get(build_id)
        if running is not None and (await self.states.read(build_id)).ended is not None:
            running.set()

    async def _under_lease(self, build_id: str) -> float | None:
        """Do the build's pending work under the build's lease. Returns None when that is done.

        When another replica has the lease or takes it meanwhile, or when this process takes no more work, returns the
        seconds until the next attempt. A drained pool keeps the attempt until the drain ends.
        """
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
        return self.lease_s if self.takes_no_more() else None

    async def _keep(self, build_id: str, lease: Lease, lost: asyncio.Timeout) -> None:
        """Renew the lease until that fails because it expired or another replica took it. Then let the timeout `lost`
        expire, which cancels the work.

        The command in the sandbox keeps running, and the replica with the next lease waits for its end.
        """
        while True:
            await asyncio.sleep(self.lease_s / 3)
            if not await self.leases.renew(lease, ttl=self.lease_s):
                LEASES_LOST.inc()
                _log.warning("lease.lost", build_id=build_id)
                lost.reschedule(0)
                return
            await self.stop_if_ended(build_id)  # the message about the end may have gone to another replica

    async def _do_all(self, build_id: str) -> None:
        while not self.takes_no_more():
            try:
                if not await self._step(await self.states.read(build_id)):
                    return
            except StateOutdated:
                continue

    async def _step(self, state: SandboxState) -> bool:
        """Do the next pending work: a group of calls, or if there is none a close, a pause or a delivery of commits.

        Returns False when nothing is pending.
        """
        if state.pending:
            group = groups(state.pending.values())[0]
            with tracing.within(group[0].traceparent):
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
