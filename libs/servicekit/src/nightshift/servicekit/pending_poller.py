"""Asks the log which work waits, at the start and at intervals, and passes each item to the service."""

import asyncio
import random
from collections.abc import Awaitable, Callable

import structlog

from nightshift.contracts.model import PendingKind
from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.errors import Transient
from nightshift.eventlog.port import EventLog, PendingItem
from nightshift.servicekit.worker_pool import WorkerPool

_log = structlog.get_logger(__name__)

_BACKOFF = Backoff(first_s=1.0, cap_s=10.0)


class PendingPoller:
    """Reads the pending items of one kind from the log, at the start and every `every_s` seconds.

    Each item goes to `take`, which decides what to do with it (acquire a lease, offer it to a pool). `take` must
    return before the work itself is done.
    """

    def __init__(
        self,
        log: EventLog,
        kind: PendingKind,
        take: Callable[[PendingItem], Awaitable[None]],
        *,
        gate: WorkerPool | None = None,
        every_s: float = 60.0,
        backoff: Backoff = _BACKOFF,
        page: int = 500,
    ) -> None:
        """`backoff` spaces the attempts while the log does not answer. `page`: items per read."""
        self._log = log
        self._kind = kind
        self._take = take
        self._gate = gate
        self._every_s = every_s
        self._backoff = backoff
        self._page = page

    async def run(self) -> None:
        """Poll until cancelled."""
        retry = RetryDelay(self._backoff, random.random)
        while True:
            pause = self._every_s
            try:
                await self.look()
                retry.reset()
            except Transient as error:
                _log.warning("pending.read_failed", kind=self._kind.value, error=str(error))
                pause = min(pause, retry.after_failure())
            await asyncio.sleep(pause)

    async def look(self) -> int:
        """Pass every pending item to `take`, page by page, waiting while `gate` is full. Returns their number."""
        count, after = 0, ""
        while True:
            items = await self._log.pending(self._kind, limit=self._page, after_key=after)
            for item in items:
                if self._gate is not None and self._gate.full:
                    await self._gate.room()
                await self._take(item)
                count += 1
            if len(items) < self._page:
                return count
            after = items[-1].key
