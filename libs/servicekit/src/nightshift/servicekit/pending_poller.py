"""Reads pending rows from the log at the start and at intervals, so that work which a crash interrupted is done."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import KW_ONLY, dataclass

import structlog

from nightshift.contracts.model import PendingKind
from nightshift.eventlog.backoff import Backoff, RetryDelay
from nightshift.eventlog.errors import Transient
from nightshift.eventlog.port import EventLog, PendingItem
from nightshift.servicekit.membership import GroupMembership
from nightshift.servicekit.worker_pool import WorkerPool

_log = structlog.get_logger(__name__)

_BACKOFF = Backoff(first_s=1.0, cap_s=10.0)
#: Seconds between two reads while the process has no place in its consumer groups, so that no message arrives.
_UNTIL_JOINED_S = 1.0


@dataclass(frozen=True, slots=True)
class PendingPoller:
    """Reads all pending rows of one kind at the start and every `every_s` seconds, `page` rows at a time.

    - `take`: called with each row. It starts the work, for example in a worker pool, and does not wait for its end.
    - `gate`: the worker pool that does the work. While it is full, the poller waits before it passes the next row to
      `take`.
    - `membership`: the rows are read every second until the consumer groups are joined. They are also read whenever
      partitions are assigned again.
    - `backoff`: the delays between attempts while the log does not answer.
    """

    log: EventLog
    kind: PendingKind
    take: Callable[[PendingItem], Awaitable[None]]
    _: KW_ONLY
    gate: WorkerPool | None = None
    membership: GroupMembership | None = None
    every_s: float = 60.0
    backoff: Backoff = _BACKOFF
    page: int = 500

    async def run(self) -> None:
        """Poll until the task is cancelled. When the log does not answer, logs the error and tries again later."""
        retry = RetryDelay(self.backoff, random.random)
        changed = asyncio.Event() if self.membership is None else self.membership.watch()
        while True:
            joined = self.membership is None or self.membership.joined
            pause = self.every_s if joined else min(self.every_s, _UNTIL_JOINED_S)
            changed.clear()
            try:
                await self.look()
                retry.reset()
            except Transient as error:
                _log.warning("pending.read_failed", kind=self.kind.value, error=str(error))
                pause = min(pause, retry.after_failure())
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await changed.wait()

    async def look(self) -> int:
        """Pass every pending row to `take` once, and wait whenever the worker pool `gate` is full. Returns the number
        of rows.
        """
        count, after = 0, ""
        while True:
            items = await self.log.pending(self.kind, limit=self.page, after_key=after)
            for item in items:
                if self.gate is not None and self.gate.full:
                    await self.gate.room()
                await self.take(item)
                count += 1
            if len(items) < self.page:
                return count
            after = items[-1].key
