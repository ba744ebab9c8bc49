"""Offers builds with pending work to the worker pool, and again after the delay that the worker returns."""

import asyncio
from dataclasses import dataclass

from nightshift.eventlog.port import PendingItem
from nightshift.sandbox_gateway.usecases.build_worker import BuildWorker
from nightshift.servicekit.build_accounts import BuildAccounts
from nightshift.servicekit.worker_pool import WorkerPool


@dataclass(frozen=True, slots=True)
class CallDispatcher:
    pool: WorkerPool
    worker: BuildWorker
    accounts: BuildAccounts

    async def dispatch(self, build_id: str) -> None:
        """Offer the build to the worker pool, which shares its slots among accounts."""
        await self.accounts.load(build_id)
        self._offer(build_id)

    def _offer(self, build_id: str) -> None:
        self.pool.offer(build_id, lambda: self._work(build_id))

    async def _work(self, build_id: str) -> None:
        retry_s = await self.worker.work(build_id)
        if retry_s is not None:
            asyncio.get_running_loop().call_later(retry_s, self._offer, build_id)

    async def dispatch_pending(self, item: PendingItem) -> None:
        """Dispatch the build of a pending row: a tool call without a result, or an open sandbox."""
        await self.dispatch(item.stream_id.partition("-")[2])
