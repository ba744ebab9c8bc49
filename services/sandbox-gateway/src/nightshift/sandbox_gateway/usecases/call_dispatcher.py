"""Offers builds that have something to do to the worker pool, at once or after a delay."""

import asyncio

from nightshift.eventlog.port import PendingItem
from nightshift.sandbox_gateway.usecases.build_worker import BuildWorker
from nightshift.servicekit.worker_pool import WorkerPool


class CallDispatcher:
    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._worker: BuildWorker | None = None

    def serve(self, worker: BuildWorker) -> None:
        """Set the worker, which itself needs this dispatcher. Builds dispatched before are ignored."""
        self._worker = worker

    def dispatch(self, build_id: str) -> None:
        worker = self._worker
        if worker is not None:
            self._pool.offer(build_id, lambda: worker.work(build_id))

    def dispatch_later(self, build_id: str, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self.dispatch, build_id)

    async def stop_if_ended(self, build_id: str) -> None:
        if self._worker is not None:
            await self._worker.stop_if_ended(build_id)

    async def dispatch_pending(self, item: PendingItem) -> None:
        """Dispatch the build of a pending row: a tool call without a result, or an open sandbox."""
        self.dispatch(item.stream_id.partition("-")[2])
