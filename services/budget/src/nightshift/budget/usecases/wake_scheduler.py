"""The periodic work: wakes sleepers that are due, ends expired grants, and answers requests whose message was lost.

Any number of replicas may run it, because the pending rows of the log say what is due.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog

from nightshift.budget.usecases.grants import Grants
from nightshift.budget.usecases.wakes import Wakes
from nightshift.contracts.events.build import BudgetRequested
from nightshift.contracts.model import PendingKind
from nightshift.eventlog.errors import Transient
from nightshift.eventlog.port import EventLog, PendingItem
from nightshift.servicekit.membership import GroupMembership

_log = structlog.get_logger(__name__)

#: Seconds between two searches for due work, so that a sleeper wakes within a second of its time.
TICK = 0.5
#: Seconds between two searches for requests whose message was lost.
SWEEP = 60.0
#: The same until the process has joined its consumer groups, because no message arrives before.
UNTIL_JOINED = 1.0
#: Seconds between two searches for sleepers of accounts with released money. Each search reads all sleepers.
RELEASED = 2.0
#: How long to leave an expired reservation under which a model call runs.
LATER = timedelta(seconds=10)
#: The most due rows that one search takes.
BATCH = 500


_utc_now = partial(datetime.now, UTC)


@dataclass(eq=False, slots=True)
class WakeScheduler:
    """Searches for due work twice a second while the service runs.

    `wake_jitter_s`: builds that are due at the same moment wake at different times within so many seconds.
    `membership`: requests without an answer are also searched for every second until the consumer groups are joined,
    and whenever their partitions move, because their messages may have reached a process that died.
    """

    log: EventLog
    grants: Grants
    wakes: Wakes
    _: KW_ONLY
    wake_jitter_s: float
    clock: Callable[[], datetime] = _utc_now
    membership: GroupMembership | None = None
    _try_again: dict[str, datetime] = field(
        default_factory=dict, init=False
    )  # due sleepers that cannot be paid yet → when to try again

    _in_flight: dict[str, datetime] = field(
        default_factory=dict, init=False
    )  # expired reservations under which a model call runs → when to look again

    async def run(self) -> None:
        """Search for due work until cancelled. Logs a warning when the database does not answer, and tries again."""
        loop = asyncio.get_running_loop()
        sweep_at = released_at = loop.time()
        changed = asyncio.Event() if self.membership is None else self.membership.watch()
        while True:
            try:
                await self.tick(self.clock())
                if loop.time() >= released_at:
                    await self.wakes.wake_for_released_money()
                    released_at = loop.time() + RELEASED
                if loop.time() >= sweep_at or changed.is_set():
                    changed.clear()
                    await self.sweep()
                    joined = self.membership is None or self.membership.joined
                    sweep_at = loop.time() + (SWEEP if joined else UNTIL_JOINED)
            except Transient as error:
                _log.warning("wake_scheduler.tick_failed", error=str(error))
            await asyncio.sleep(TICK)

    async def tick(self, now: datetime) -> None:
        """Wake the sleepers that are due, the longest due first, and settle expired reservations."""
        # Sleepers that cannot be paid must not take the places of the others.
        limit = BATCH + len(self._try_again)
        items = await self.log.pending(PendingKind.SLEEPER, due_before=now, limit=limit)
        waiting = {item.key: self._try_again[item.key] for item in items if item.key in self._try_again}
        due = [item for item in items if self._is_due(item, now) and waiting.get(item.key, now) <= now]
        self._try_again = {**waiting, **await self.wakes.wake_due(due, now)}
        await self._expire(now)

    async def _expire(self, now: datetime) -> None:
        limit = BATCH + len(self._in_flight)
        items = await self.log.pending(PendingKind.RESERVATION, due_before=now, limit=limit)
        self._in_flight = {
            item.key: self._in_flight[item.key] for item in items if item.key in self._in_flight
        }
        for item in items:
            if self._in_flight.get(item.key, now) <= now and not await self.grants.expire(item, now):
                self._in_flight[item.key] = now + LATER

    async def sweep(self) -> None:
        """Answer the requests for money whose messages were lost."""
        after = ""
        while items := await self.log.pending(PendingKind.BUDGET_REQUEST, after_key=after):
            after = items[-1].key
            for item in items:
                async for event in self.log.read_stream(
                    item.stream_id, from_version=item.version, to_version=item.version
                ):
                    if isinstance(event.data, BudgetRequested):
                        await self.grants.answer(event, event.data)

    def _is_due(self, item: PendingItem, now: datetime) -> bool:
        """Return whether the row's due time has passed, delayed by a part of the jitter that depends on the build
        id.
        """
        draw = int.from_bytes(hashlib.blake2s(item.key.encode(), digest_size=4).digest()) / 2**32
        return item.due_at is not None and item.due_at + timedelta(seconds=self.wake_jitter_s * draw) <= now
