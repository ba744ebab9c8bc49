"""What time does to money: sleepers whose hour has come, grants that ran out, and requests whose message was lost.

The log's pending projection is the only memory, so any replica may tick, any number of them, and none is missed."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta

import structlog

from nightshift.budget.usecases import Budget
from nightshift.contracts.events.build import BudgetRequested
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import Transient
from nightshift.eventlog.port import EventLog, PendingItem

_log = structlog.get_logger(__name__)

#: Seconds between two looks: a sleeper wakes within a second of its time.
TICK = 0.5
#: Seconds between two looks for requests that no message told us of, and how old they are then.
SWEEP = 60.0
#: Seconds between two looks for sleepers for whom money came back. All who sleep are looked through.
FREED = 2.0
#: How many sleepers are woken at once.
BATCH = 500


class Clockwork:
    """Ticks for as long as the service runs."""

    def __init__(self, log: EventLog, budget: Budget, *, wake_jitter_s: float) -> None:
        self._log_port = log
        self._budget = budget
        self._jitter = wake_jitter_s

    async def run(self) -> None:
        """Tick until cancelled. While the database is away it waits and says so."""
        loop = asyncio.get_running_loop()
        sweep_at = freed_at = loop.time()
        while True:
            try:
                await self.tick(datetime.now(UTC))
                if loop.time() >= freed_at:
                    await self._budget.wake_for_what_came_back()
                    freed_at = loop.time() + FREED
                if loop.time() >= sweep_at:
                    await self.sweep()
                    sweep_at = loop.time() + SWEEP
            except Transient as error:
                _log.warning("clockwork waits", error=str(error))
            await asyncio.sleep(TICK)

    async def tick(self, now: datetime) -> None:
        """Wake who is due, the longest asleep first; end the grants that ran out."""
        for item in await self._log_port.pending(PendingKind.SLEEPER, due_before=now, limit=BATCH):
            if item.due_at is not None and item.due_at + self._late(item) <= now:
                await self._budget.wake_due(item)
        for item in await self._log_port.pending(PendingKind.RESERVATION, due_before=now, limit=BATCH):
            await self._budget.expire(item)

    async def sweep(self) -> None:
        """Answer the requests for money that wait: their messages may have been lost with the broker."""
        after = ""
        while items := await self._log_port.pending(PendingKind.BUDGET_REQUEST, after_key=after):
            after = items[-1].key
            for item in items:
                async for event in self._log_port.read_stream(
                    item.stream_id, from_version=item.version, to_version=item.version
                ):
                    if isinstance(event.data, BudgetRequested):
                        await self._budget.answer(event, event.data)

    def _late(self, item: PendingItem) -> timedelta:
        """Each build's own part of the jitter, always the same, so that ten thousand do not wake in one second."""
        draw = int.from_bytes(hashlib.blake2s(item.key.encode(), digest_size=4).digest()) / 2**32
        return timedelta(seconds=self._jitter * draw)
